"""From a checked recipe to a job: the run's folder is opened, then the model."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import replace
from pathlib import Path
from shlex import quote
from typing import Literal

from pudistill_cli.allowed_code import NO_CODE, AllowedCode
from pudistill_cli.backend_api.contract import Engine, Learner, LoraSpec, ModelSpec, OptimizerSpec
from pudistill_cli.backend_api.oom_retry import halving_notice
from pudistill_cli.config.loading import load_recipe
from pudistill_cli.config.schema import Recipe
from pudistill_cli.config.teacher import LocalTeacher
from pudistill_cli.did_you_mean import did_you_mean
from pudistill_cli.errors import RunError
from pudistill_cli.files.cache_dir import cache_path
from pudistill_cli.files.paths_inside import RUN_NAME
from pudistill_cli.prompts import Prompt
from pudistill_cli.run.context import Job
from pudistill_cli.run.folder import RunFolder
from pudistill_cli.run.identity import identity
from pudistill_cli.run.ledger import Ledger
from pudistill_cli.run.marks import Mark
from pudistill_cli.run.measured import needed_code, refuse_missing_file
from pudistill_cli.run.memo import Memo
from pudistill_cli.run.mending import mend, refuse_damaged
from pudistill_cli.run.model_pair import ModelPair
from pudistill_cli.run.plan import DEFAULT_CONTEXT, ENGINE, Plan, measured, plan
from pudistill_cli.run.relocation import found_again
from pudistill_cli.run.same_run import refuse_missing_files, refuse_other_content, refuse_other_settings
from pudistill_cli.run.teacher_content import other_answers, teacher_content, what_changed
from pudistill_cli.teacher.answers import Teacher
from pudistill_cli.teacher.cache import AnswerCache
from pudistill_cli.teacher.opening import open_teacher
from pudistill_cli.terminal.console import Console


def open_run(checked: Plan, console: Console, root: Path, name: str, *, offline: bool = False) -> Job:
    """Create or open the folder of a run that is to go on, then load the student."""
    teacher = checked.recipe.teacher
    others = other_answers(teacher, checked.prompts, root / name / "ledger.sqlite")
    if others:
        console.warn(what_changed(teacher, others))
    content = teacher_content(teacher, checked.prompts)
    folder = RunFolder.create_or_open(root, name, identity(checked) | content)
    try:
        _tell(folder, console)
        if others:
            console.say(_settled(folder, others))
        folder.write_recipe(checked.recipe)
        if folder.ledger_path.exists():
            with closing(Ledger(folder.ledger_path)) as ledger:
                mend(folder, ledger, console.warn, checked.recipe.prefer.rounds)
        with console.status("loading the student"):
            return _load(checked, console, folder, folder.path / "state" / "memo", offline=offline)
    except BaseException:
        folder.close()
        raise


def _tell(folder: RunFolder, console: Console) -> None:
    for notice in folder.notices:
        console.warn(notice)


def _settled(folder: RunFolder, others: Sequence[Prompt]) -> str:
    """What becomes of answers that are others in their file now: a run that has not used any takes the new ones."""
    with closing(Ledger(folder.ledger_path)) as ledger:
        held = ledger.anchors()
    if all(prompt.key in held for prompt in others):
        return f"{folder.name} goes on with the answers that it took."
    return f"{folder.name} has not learned from any yet, and takes its answers anew."


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
        measure=checked.measure,
        offline=offline,
        allowed=checked.allowed,
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


def reopen(
    run: str,
    root: Path,
    console: Console,
    changes: Sequence[str],
    *,
    allowed: AllowedCode = NO_CODE,
    grades: bool = True,
) -> Job:
    """The job of a finished run, from its resolved recipe with some settings changed for this time only.

    Without `grades` nothing is evaluated, and no metric is needed.

    Raises:
        RunError: there is no such run, it is not finished, or its student or prompts have become others.
        UsageError: it is graded by code, which the command line does not allow.
    """
    path = find_run(run, root)
    if grades and allowed.metric is None and not any(c.lstrip().startswith("eval.metric") for c in changes):
        refuse_missing_file(path)
    folder = RunFolder.reopen(path)
    try:
        recipe = found_again(load_recipe(str(folder.recipe_path), changes).recipe, folder.place, folder.path.absolute())
        refuse_missing_files(folder, recipe)
        checked = plan(recipe, console, allowed=allowed, grades=grades)
        refuse_other_settings(folder, identity(checked), changes)
        refuse_other_content(folder, identity(checked))
        _tell(folder, console)
        with closing(Ledger(folder.ledger_path)) as ledger:
            if not ledger.stage_done(Mark.EVAL()):
                raise not_finished(folder.path)
            refuse_damaged(folder, ledger, console.warn)
        with console.status("loading the student"):
            return _load(checked, console, folder, None, offline=False)
    except BaseException:
        folder.close()
        raise


def find_run(run: str, root: Path) -> Path:
    """The folder of a run: a path, or a name in `root`.

    Raises:
        RunError: there is no such run.
    """
    named = RUN_NAME.fullmatch(run) is not None and not (Path(run) / "recipe.yaml").is_file()
    path = root / run if named else Path(run)
    if not (path / "recipe.yaml").is_file():
        known = sorted(p.parent.name for p in root.glob("*/recipe.yaml"))
        raise RunError(
            f"There is no run {run!r} in {root}{did_you_mean(run, known)}.",
            f"Runs there: {', '.join(known) or 'none'}. Make one with: pudistill run RECIPE",
        )
    return path if path.name not in ("", "..") else path.resolve()


def not_finished(path: Path) -> RunError:
    """What is said of a run that has no final table yet."""
    recipe = path / "recipe.yaml"
    parts = ["pudistill run", quote(str(recipe)), f"--name {path.name} --runs {quote(str(path.parent))}"]
    return RunError(
        f"The run {path.name!r} is not finished.",
        f"Go on with: {' '.join([*parts, *needed_code(path, load_recipe(str(recipe)).recipe).options])}",
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
