"""From a recipe to a job: everything is checked before a weight is read, then the model is opened."""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from hashlib import blake2b
from pathlib import Path
from shlex import quote
from typing import cast

from pudistill_cli import __version__
from pudistill_cli.console import Console
from pudistill_cli.contract import Engine, LoraSpec, ModelSpec, OptimizerSpec
from pudistill_cli.errors import BackendError, RunError
from pudistill_cli.hardware import Choice, choose, detect
from pudistill_cli.job import Job, cache_path
from pudistill_cli.ledger import Ledger
from pudistill_cli.metrics import load_metric
from pudistill_cli.prompts import (
    PromptFile,
    PromptSets,
    given_prompts,
    read_prompts,
    refuse_leaks,
    split_prompts,
)
from pudistill_cli.recipe import PromptSettings, Recipe, check_base
from pudistill_cli.recipe_file import load_recipe
from pudistill_cli.registry import backends
from pudistill_cli.rundir import RunFolder
from pudistill_cli.student import Student, resolve_student
from pudistill_cli.suggestion import did_you_mean
from pudistill_cli.teacher import Teacher, open_teacher
from pudistill_cli.teacher.cache import AnswerCache
from pudistill_cli.teacher.settings import LocalTeacher

SAMPLE_ROWS = 256
"""Sequences that are decoded together unless the recipe says otherwise."""
DEFAULT_CONTEXT = 4096
"""A student's context is used up to here unless the recipe asks for more: memory grows with it."""


@dataclass(frozen=True, slots=True)
class Plan:
    """A recipe that has been checked: what will run, on what, with which prompts."""

    recipe: Recipe
    student: Student
    prompts: PromptSets
    choice: Choice
    spec: ModelSpec
    resolved: Mapping[str, str]
    """What `auto` means here: device, dtype, threads."""


def plan(recipe: Recipe, console: Console, *, offline: bool = False) -> Plan:
    """Check recipe, student, prompts and machine against each other; no weight is read.

    Raises:
        PudistillError: the first thing that would stop the run.
    """
    load_metric(recipe.eval.metric)
    choice = choose(recipe.backend.engine, recipe.backend.learner, backends(), detect())
    _check_capabilities(recipe, choice)
    prompts = read_prompt_sets(recipe.prompts)
    student = resolve_student(
        recipe.student.model,
        recipe.student.revision,
        offline=offline,
        context=recipe.student.context,
        format=recipe.prompts.format,
    )
    for notice in (*prompts.notices, *student.notices):
        console.warn(notice)
    _check_architecture(student, choice)
    if choice.advice:
        console.say(choice.advice)
    spec = ModelSpec(
        folder=student.folder,
        stop_tokens=tuple(student.tokenizer.stop_tokens),
        context=student.context if recipe.student.context else min(student.context, DEFAULT_CONTEXT),
        device=recipe.student.device,
        dtype=recipe.student.dtype,
        threads=recipe.student.threads,
        sample_rows=recipe.student.sample_rows or SAMPLE_ROWS,
        token_budget=recipe.student.token_budget,
        options=recipe.backend.options,
    )
    return Plan(recipe, student, prompts, choice, spec, choice.learner.describe(spec))


def read_prompt_sets(settings: PromptSettings) -> PromptSets:
    """Train, dev, test and further test sets, disjoint where it matters.

    Raises:
        DataError: a file is missing or empty, has bad lines, or a prompt is in two sets.
    """

    def read(path: str) -> PromptFile:
        return read_prompts(Path(path), settings.format, settings.on_bad_line, settings.system)

    extra = {name: read(path) for name, path in settings.extra.items()}
    if settings.path is not None:
        file = read(settings.path)
        split = split_prompts(file.prompts[: settings.limit], settings.dev_share, settings.test_share)
        further = {n: tuple(replace(p, split=n) for p in f.prompts) for n, f in extra.items()}
        notices = (*file.notices, *split.notices, *(n for f in extra.values() for n in f.notices))
        sets = replace(split, extra=further, notices=notices)
        refuse_leaks(sets)
        return sets
    files = {"train": settings.train, "dev": settings.dev, "test": settings.test}
    given = {name: read(path) for name, path in files.items() if path is not None}  # the recipe asked for all three
    given["train"] = replace(given["train"], prompts=given["train"].prompts[: settings.limit])
    return given_prompts({**given, **extra})


def _check_capabilities(recipe: Recipe, choice: Choice) -> None:
    engine, learner = choice.engine, choice.learner
    objective = recipe.train.objective.name
    check_base(recipe.lora, learner.name, learner.capabilities.quantised_bases)
    if objective not in learner.capabilities.objectives:
        raise BackendError(
            f"The {learner.name} backend has no objective {objective!r}.",
            f"It has: {', '.join(sorted(learner.capabilities.objectives))}.",
        )
    if not (engine.capabilities.sample and engine.capabilities.score and learner.capabilities.learn):
        raise BackendError(
            f"{engine.name} cannot sample and score, or {learner.name} cannot learn.", "Set `backend: auto`."
        )


def _check_architecture(student: Student, choice: Choice) -> None:
    for backend in {choice.engine.name: choice.engine, choice.learner.name: choice.learner}.values():
        known = backend.architectures()
        if known is not None and student.model_type not in known:
            raise BackendError(
                f"The {backend.name} backend does not know {student.folder.name}'s model type {student.model_type!r}.",
                "Check `model_type` in its config.json, or update: pip install -U transformers",
            )


def open_run(checked: Plan, console: Console, root: Path, name: str, *, offline: bool = False) -> Job:
    """Create or open the folder of a run that is to go on, then load the student."""
    folder = RunFolder.create_or_open(root, name, identity(checked))
    try:
        folder.write_recipe(checked.recipe)
        return _load(checked, console, folder, offline=offline)
    except BaseException:
        folder.close()
        raise


def _load(checked: Plan, console: Console, folder: RunFolder, *, offline: bool) -> Job:
    recipe, student = checked.recipe, checked.student
    resolved = folder.resolve_once(dict(checked.resolved))
    engine = checked.choice.engine.open(checked.spec)
    train = recipe.train
    learner = checked.choice.learner.learn(
        checked.spec,
        LoraSpec(recipe.lora.r, recipe.lora.alpha, recipe.lora.base, recipe.seed),
        OptimizerSpec(weight_decay=train.weight_decay, clip_norm=train.clip_norm),
        engine,
    )
    return Job(
        recipe=recipe,
        student=student,
        prompts=checked.prompts,
        folder=folder,
        ledger=Ledger(folder.ledger_path),
        console=console,
        backend=checked.choice.engine,
        learner_backend=checked.choice.learner,
        spec=checked.spec,
        resolved=resolved,
        engine=engine,
        learner=learner,
        cache=AnswerCache(cache_path() / "anchors.sqlite"),
        metric_function=load_metric(recipe.eval.metric),
        offline=offline,
    )


def reopen(run: str, root: Path, console: Console, changes: Sequence[str]) -> Job:
    """The job of a finished run, from its resolved recipe with some settings changed for this time only.

    Raises:
        RunError: there is no such run, or it is not finished.
    """
    path = Path(run) if (Path(run) / "recipe.yaml").is_file() else root / run
    if not (path / "recipe.yaml").is_file():
        known = sorted(p.parent.name for p in root.glob("*/recipe.yaml"))
        raise RunError(
            f"There is no run {run!r} in {root}{did_you_mean(run, known)}.",
            f"Runs there: {', '.join(known) or 'none'}. Make one with: pudistill run RECIPE",
        )
    checked = plan(load_recipe(str(path / "recipe.yaml"), changes).recipe, console)
    folder = RunFolder.reopen(path)
    try:
        job = _load(checked, console, folder, offline=False)
    except BaseException:
        folder.close()
        raise
    if not job.ledger.stage_done("eval"):
        job.close()
        raise RunError(
            f"The run {path.name!r} is not finished.",
            f"Go on with: pudistill run {quote(str(path / 'recipe.yaml'))} --name {path.name} "
            f"--runs {quote(str(path.parent))}",
        )
    return job


@contextmanager
def teacher_of(recipe: Recipe, console: Console, *, offline: bool = False) -> Generator[Teacher]:
    """The recipe's teacher; a local one holds its model until the end."""
    opened: list[Engine] = []

    def open_local(settings: LocalTeacher) -> Teacher:
        from pudistill_cli.teacher.local import LocalModel

        model = resolve_student(settings.model, settings.revision, offline=offline)
        backend = choose(recipe.backend.engine, recipe.backend.learner, backends(), detect()).engine
        context = min(model.context, DEFAULT_CONTEXT)
        engine = backend.open(ModelSpec(model.folder, tuple(model.tokenizer.stop_tokens), context))
        opened.append(engine)
        console.say(f"teacher: {settings.model}, {model.parameters:,} parameters, on this machine")
        return LocalModel(settings, engine, model.tokenizer.encode_prompt, model.fingerprint, context)

    try:
        yield open_teacher(recipe.teacher, folder=Path.cwd(), open_local=open_local)
    finally:
        for engine in opened:
            engine.close()


_NAMED_BY_CONTENT = {
    "name": True,
    "student": {"model"},
    "prompts": {"path", "train", "dev", "test", "extra"},
}
"""Settings that are not part of what a run is: their content is, by its fingerprint, wherever it lies."""


def identity(checked: Plan) -> dict[str, str]:
    """What makes a run this run: version, resolved recipe, and the content of student and prompts."""
    sets = (checked.prompts.train, checked.prompts.dev, checked.prompts.test, *checked.prompts.extra.values())
    content = sorted(f"{p.split} {p.key} {p.reference!r}" for prompts in sets for p in prompts)
    return {
        "version": __version__,
        "student.fingerprint": checked.student.fingerprint,
        "prompts.fingerprint": blake2b("\n".join(content).encode(), digest_size=16).hexdigest(),
        "backend.resolved": f"{checked.choice.engine.name}+{checked.choice.learner.name}",
        **flattened(checked.recipe.model_dump(mode="json", exclude=_NAMED_BY_CONTENT)),
    }


def flattened(value: object, path: str = "") -> dict[str, str]:
    """A recipe's settings by dotted key, as strings."""
    if not isinstance(value, dict) or not value:
        return {path: str(cast("object", value))}
    parts = cast("dict[str, object]", value)
    return {k: v for name, part in parts.items() for k, v in flattened(part, f"{path}.{name}".lstrip(".")).items()}
