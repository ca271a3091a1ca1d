"""From a checked recipe to a job: the run's folder is opened, then the model."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from shlex import quote
from typing import Literal

from pudistill_cli.backend_api.contract import Engine, Learner, LoraSpec, ModelSpec, OptimizerSpec
from pudistill_cli.backend_api.oom_retry import halving_notice
from pudistill_cli.cache_dir import cache_path
from pudistill_cli.config.loading import load_recipe
from pudistill_cli.config.schema import Recipe
from pudistill_cli.config.teacher import LocalTeacher
from pudistill_cli.console import Console
from pudistill_cli.did_you_mean import did_you_mean
from pudistill_cli.errors import RunError
from pudistill_cli.metrics import load_metric
from pudistill_cli.run.context import Job
from pudistill_cli.run.folder import RunFolder
from pudistill_cli.run.identity import identity
from pudistill_cli.run.ledger import Ledger
from pudistill_cli.run.marks import Mark
from pudistill_cli.run.memo import Memo
from pudistill_cli.run.model_pair import ModelPair
from pudistill_cli.run.plan import DEFAULT_CONTEXT, ENGINE, Plan, measured, plan
from pudistill_cli.teacher.answers import Teacher
from pudistill_cli.teacher.cache import AnswerCache
from pudistill_cli.teacher.opening import open_teacher


def open_run(checked: Plan, console: Console, root: Path, name: str, *, offline: bool = False) -> Job:
    """Create or open the folder of a run that is to go on, then load the student."""
    folder = RunFolder.create_or_open(root, name, identity(checked))
    try:
        folder.write_recipe(checked.recipe)
        with console.status("loading the student"):
            return _load(checked, console, folder, folder.path / "state" / "memo", offline=offline)
    except BaseException:
        folder.close()
        raise


def _load(checked: Plan, console: Console, folder: RunFolder, kept: Path | None, *, offline: bool) -> Job:
    """`kept` is where scores are kept while the ledger has not got them."""
    recipe, student = checked.recipe, checked.student.at(folder.date())
    resolved = folder.resolve_once(_resolved(checked, console, folder))
    spec, learner_spec = _as_first_resolved(checked, resolved, folder.token_budget)
    choice, train = checked.choice, recipe.train
    lora = LoraSpec(recipe.lora.r, recipe.lora.alpha, recipe.seed)
    optimizer = OptimizerSpec(weight_decay=train.weight_decay, clip_norm=train.clip_norm)

    def learn(engine: Engine) -> Learner:
        return choice.learner.learn(_fitting(learner_spec, folder.token_budget), lora, optimizer, engine)

    on_halved = halving_notice(console.warn, folder.keep_token_budget)
    memo = Memo(kept, student.fingerprint, choice.engine.name, choice.learner.name, resolved, spec.base, spec.options)
    budget = int(resolved["token_budget"])
    model_pair = ModelPair(choice.engine.open(spec), learn, on_halved, memo, budget, in_turns=choice.suspend)
    return Job(
        recipe=recipe,
        student=student,
        prompts=checked.prompts,
        folder=folder,
        ledger=Ledger(folder.ledger_path),
        console=console,
        backend=choice.engine,
        learner_backend=choice.learner,
        spec=spec,
        learner_spec=learner_spec,
        resolved=resolved,
        model_pair=model_pair,
        cache=AnswerCache(cache_path() / "anchors.sqlite"),
        metric_function=load_metric(recipe.eval.metric),
        offline=offline,
    )


def _resolved(checked: Plan, console: Console, folder: RunFolder) -> dict[str, str]:
    """What `auto` means on this machine; what is fastest is tried when a run begins, and kept like the rest."""
    if folder.has_resolved(checked.resolved):
        return dict(checked.resolved)
    resolved = measured(checked)
    if changed := [f"{name} {value}" for name, value in resolved.items() if value != checked.resolved.get(name)]:
        console.say(f"fastest here, as measured: {', '.join(changed)}")
    return resolved


def _as_first_resolved(checked: Plan, resolved: Mapping[str, str], kept: int | None) -> tuple[ModelSpec, ModelSpec]:
    """The specs of engine and learner with what can change a byte as the run first resolved it, on whatever machine.

    `kept` are the tokens in a pass that the learner, and an engine that may share its model, were found to have memory
    for.
    """
    dtype: Literal["float32", "bfloat16"] = "bfloat16" if resolved["dtype"] == "bfloat16" else "float32"
    budget = int(resolved["token_budget"])
    learner = replace(checked.learner_spec, dtype=dtype, threads=_threads(resolved), token_budget=budget)
    own = {k.removeprefix(ENGINE): v for k, v in resolved.items() if k.startswith(ENGINE)}
    if not own:
        learner = _fitting(learner, kept)
        return learner, learner
    options = {k: v for k, v in own.items() if k not in ("device", "dtype", "threads", "rows")}
    own_dtype: Literal["float32", "bfloat16", "auto"] = checked.spec.dtype
    if "dtype" in own:
        own_dtype = "bfloat16" if own["dtype"] == "bfloat16" else "float32"
    engine = replace(checked.spec, dtype=own_dtype, threads=_threads(own), token_budget=budget, options=options)
    return engine, _fitting(learner, kept)


def _fitting(spec: ModelSpec, kept: int | None) -> ModelSpec:
    """Halved as engines and learners do it, so that a model with this spec can be shared."""
    while kept is not None and spec.token_budget > kept:
        spec = spec.halved()
    return spec


def _threads(resolved: Mapping[str, str]) -> int | None:
    """None for a backend without such a setting (MLX)."""
    return int(resolved["threads"]) if "threads" in resolved else None


def reopen(run: str, root: Path, console: Console, changes: Sequence[str]) -> Job:
    """The job of a finished run, from its resolved recipe with some settings changed for this time only.

    Raises:
        RunError: there is no such run, it is not finished, or its student or prompts have become others.
    """
    path = find_run(run, root)
    checked = plan(load_recipe(str(path / "recipe.yaml"), changes).recipe, console)
    folder = RunFolder.reopen(path)
    try:
        folder.refuse_other_content(identity(checked))
        with console.status("loading the student"):
            job = _load(checked, console, folder, None, offline=False)
    except BaseException:
        folder.close()
        raise
    if not job.ledger.stage_done(Mark.EVAL()):
        job.close()
        raise not_finished(path)
    return job


def find_run(run: str, root: Path) -> Path:
    """The folder of a run: a path, or a name in `root`.

    Raises:
        RunError: there is no such run.
    """
    path = Path(run) if (Path(run) / "recipe.yaml").is_file() else root / run
    if not (path / "recipe.yaml").is_file():
        known = sorted(p.parent.name for p in root.glob("*/recipe.yaml"))
        raise RunError(
            f"There is no run {run!r} in {root}{did_you_mean(run, known)}.",
            f"Runs there: {', '.join(known) or 'none'}. Make one with: pudistill run RECIPE",
        )
    return path if path.name not in ("", "..") else path.resolve()


def not_finished(path: Path) -> RunError:
    """What is said of a run that has no final table yet."""
    return RunError(
        f"The run {path.name!r} is not finished.",
        f"Go on with: pudistill run {quote(str(path / 'recipe.yaml'))} --name {path.name} "
        f"--runs {quote(str(path.parent))}",
    )


@contextmanager
def teacher_of(
    recipe: Recipe, console: Console, *, offline: bool = False, make_room: Callable[[], None] = lambda: None
) -> Generator[Teacher]:
    """The recipe's teacher; a local one holds its model until the end, for which `make_room` may be called."""
    with ExitStack() as opened:

        def open_local(settings: LocalTeacher) -> Teacher:
            from pudistill_cli.teacher import local

            with console.status("loading the teacher"):
                model = local.open_local(
                    settings, recipe.backend.engine, DEFAULT_CONTEXT, offline=offline, make_room=make_room
                )
            opened.callback(model.close)
            console.say(f"teacher: {model.about}")
            return model

        yield open_teacher(recipe.teacher, folder=Path.cwd(), open_local=open_local)
