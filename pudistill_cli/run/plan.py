"""A recipe, checked against student, prompts and machine before a weight is read: what will run, on what."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from pudistill_cli.allowed_code import NO_CODE, AllowedCode
from pudistill_cli.backend_api.contract import Measures, ModelSpec
from pudistill_cli.backend_api.registry import backends
from pudistill_cli.config.objective_settings import DEFAULT
from pudistill_cli.config.prompts import PromptSettings
from pudistill_cli.config.schema import Recipe
from pudistill_cli.config.student import check_base
from pudistill_cli.errors import BackendError, UsageError
from pudistill_cli.hardware.machine import detect
from pudistill_cli.hardware.memory_estimate import TOKEN_BUDGET, demand_of
from pudistill_cli.hardware.selection import Choice, choose
from pudistill_cli.metrics.metric import Metric
from pudistill_cli.metrics.registry import Measure, measure_of
from pudistill_cli.models.checkpoint_files import read_json
from pudistill_cli.models.student import Student, resolve_student, with_original
from pudistill_cli.prompt_files import read_prompts
from pudistill_cli.prompts import (
    PromptFile,
    PromptSets,
    given_prompts,
    refuse_leaks,
    split_prompts,
)
from pudistill_cli.run.kept_elsewhere import refuse_damaged_model
from pudistill_cli.run.token_ids import check_token_ids
from pudistill_cli.terminal.console import Console

SAMPLE_ROWS = 256
"""Sequences that are decoded together unless the recipe says otherwise."""
ENGINE = "engine."
"""Before the names of what `auto` means to an engine of another backend than the learner's."""
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
    """The engine's."""
    resolved: Mapping[str, str]
    """What `auto` means here by rule: the learner's device, dtype, threads, and the engine's, where it is another."""
    measure: Measure
    """What grades answers."""
    allowed: AllowedCode = NO_CODE

    @property
    def learner_spec(self) -> ModelSpec:
        """Always a checkpoint in Hugging Face form, without the engine's own options."""
        return replace(self.spec, folder=self.student.folder, options={})


def plan(
    recipe: Recipe,
    console: Console,
    *,
    offline: bool = False,
    allowed: AllowedCode = NO_CODE,
    grades: bool = True,
) -> Plan:
    """Check recipe, student, prompts and machine against each other; no weight is read.

    Without `grades` no answer will be graded, so a metric that is code need not be allowed, and is not loaded.

    Raises:
        PudistillError: the first thing that would stop the run.
    """
    with console.status("checking recipe, student and prompts"):
        checked = _plan(recipe, console, offline, measure_of(recipe.eval.metric, allowed), grades)
        return replace(checked, allowed=allowed)


def _plan(recipe: Recipe, console: Console, offline: bool, measure: Measure, grades: bool) -> Plan:
    metric = measure.metric if grades else None
    if grades and metric is None and recipe.teacher.min_score is not None:
        raise UsageError(
            "teacher.min_score is given, and nothing grades the teacher's answers: eval.metric is none.",
            "Name a metric, for example --set eval.metric=json, or leave teacher.min_score out.",
        )
    prompts = read_prompt_sets(recipe.prompts)
    if metric is not None and (notice := unreachable_references(metric, prompts)):
        console.warn(notice)
    for model in (recipe.student.model, recipe.student.original, getattr(recipe.teacher, "model", None)):
        if model is not None:
            refuse_damaged_model(Path(model))
    student = resolve_student(
        recipe.student.model,
        recipe.student.revision,
        offline=offline,
        context=recipe.student.context,
        format=recipe.prompts.format,
    )
    if recipe.student.original is not None:
        student = with_original(student, recipe.student.original, offline=offline, format=recipe.prompts.format)
    if recipe.prompts.format == "chat":
        student = student.answering(recipe.student.template_kwargs)
    check_token_ids(recipe, student.tokenizer, prompts)
    for notice in (*prompts.notices, *student.notices):
        console.warn(notice)
    choice = _choice(recipe, student, console)
    _check_capabilities(recipe, choice)
    _check_architecture(student, choice)
    if choice.advice:
        console.say(choice.advice)
    own_device = recipe.student.device != "auto"
    spec = ModelSpec(
        folder=student.gguf or student.folder if choice.engine.name != choice.learner.name else student.folder,
        stop_tokens=tuple(student.tokenizer.stop_tokens),
        context=student.context if recipe.student.context else min(student.context, DEFAULT_CONTEXT),
        device=recipe.student.device if own_device else choice.device,
        dtype=recipe.student.dtype,
        base=recipe.lora.base,
        threads=recipe.student.threads,
        sample_rows=recipe.student.sample_rows or SAMPLE_ROWS,
        token_budget=recipe.student.token_budget or choice.token_budget or TOKEN_BUDGET,
        options=recipe.backend.options if recipe.backend.engine in ("auto", choice.engine.name) else {},
    )
    checked = Plan(recipe, student, prompts, choice, spec, {}, measure)
    return replace(checked, resolved=_resolved(choice, spec, checked.learner_spec))


def _choice(recipe: Recipe, student: Student, console: Console) -> Choice:
    """The backends, or the learner alone where the engine cannot hold this student: found before anything is spent."""
    demand = demand_of(
        read_json(student.folder / "config.json"),
        student.parameters,
        context=min(student.context, DEFAULT_CONTEXT),
        token_budget=recipe.student.token_budget,
        rank=recipe.lora.r,
        device=recipe.student.device,
        gguf=student.gguf is not None,
        file_gib=student.gguf.stat().st_size / 2**30 if student.gguf else None,
    )
    choice = choose(recipe.backend.engine, recipe.backend.learner, backends(), detect(), demand)
    for notice in choice.notices:
        console.warn(notice)
    choice = _with_able_learner(choice, recipe, student, console)
    if choice.engine.name == choice.learner.name:
        return choice
    problem = None if student.gguf else choice.engine.refusal(student.folder)
    if problem is None:
        return choice
    console.warn(f"{choice.learner.name} samples, not {choice.engine.name}: {problem}")
    return replace(choice, engine=choice.learner, suspend=False)


def _with_able_learner(choice: Choice, recipe: Recipe, student: Student, console: Console) -> Choice:
    """Another learner where `auto` picked one that cannot hold this student."""
    problem = choice.learner.refusal(student.folder)
    if problem is None:
        return choice
    others = [b for b in backends().values() if b.capabilities.learn and b.problem() is None]
    able = next((b for b in others if b.name != choice.learner.name and b.refusal(student.folder) is None), None)
    if recipe.backend.learner != "auto" or able is None:
        raise BackendError(
            f"The {choice.learner.name} backend cannot train {student.folder.name}: {problem}",
            "Choose another student, or copy this one again."
            + ("" if choice.learner.name == "torch" else " Or use another backend: --set backend=torch"),
        )
    console.warn(f"{able.name} trains, not {choice.learner.name}: {problem}")
    alone = choice.engine.name == choice.learner.name
    return replace(choice, learner=able, engine=able if alone else choice.engine)


def _resolved(choice: Choice, spec: ModelSpec, learner_spec: ModelSpec) -> dict[str, str]:
    resolved = {**choice.learner.describe(learner_spec), "token_budget": str(learner_spec.token_budget)}
    if choice.engine.name != choice.learner.name or spec.options:
        resolved |= {f"{ENGINE}{name}": value for name, value in choice.engine.describe(spec).items()}
    return resolved


def measured(checked: Plan) -> dict[str, str]:
    """What `auto` means here, with what only speed depends on found by trying it, where a backend does that."""
    choice, resolved = checked.choice, dict(checked.resolved)
    if isinstance(choice.learner, Measures):
        resolved |= choice.learner.measured(checked.learner_spec, None)
    if isinstance(choice.engine, Measures) and any(name.startswith(ENGINE) for name in resolved):
        own = choice.engine.measured(checked.spec, choice.engine_weights_gib)
        resolved |= {f"{ENGINE}{name}": value for name, value in own.items()}
    return resolved


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


def unreachable_references(metric: Metric, prompts: PromptSets) -> str | None:
    """What is said where no answer to some held-out prompts can be right by their references."""
    held_out = [
        p for part in (prompts.dev, prompts.test, *prompts.extra.values()) for p in part if p.reference is not None
    ]
    found = [(p, problem) for p in held_out if (problem := metric.problem(p.reference or "")) is not None]
    if not found:
        return None
    first, problem = found[0]
    return (
        f"No answer to {len(found)} of {len(held_out)} held-out prompts can be right by eval.metric {metric.name}: the "
        f"reference of {first.source}:{first.line} {problem}."
    )


def _check_capabilities(recipe: Recipe, choice: Choice) -> None:
    engine, learner = choice.engine, choice.learner
    objective = recipe.train.objective
    check_base(recipe.lora, learner.name, learner.capabilities.quantised_bases)
    if objective.distils and not learner.capabilities.distils:
        raise BackendError(
            f"The {learner.name} backend cannot distil the judge, as train.objective {objective.name} does here.",
            f"Use one that does not: --set train.objective={DEFAULT}",
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
                "Check `model_type` in its config.json, or update: pip install -U --upgrade-strategy eager "
                f'"pudistill[{backend.name}]"',
            )
