"""A student loaded as a judge: any model that can be a student, through any backend, with or without an adapter."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pudistill_cli.backend_api.contract import Backend, ModelSpec
from pudistill_cli.backend_api.oom_retry import halving_notice, retrying_engine
from pudistill_cli.backend_api.registry import backends
from pudistill_cli.config.schema import Recipe
from pudistill_cli.config.student import StudentSettings
from pudistill_cli.errors import BackendError, DataError
from pudistill_cli.hardware.machine import detect
from pudistill_cli.hardware.memory_estimate import TOKEN_BUDGET, demand_of
from pudistill_cli.hardware.placement import Placement, choose_device
from pudistill_cli.hardware.selection import choose_inference_backend
from pudistill_cli.method.scorers import Judge
from pudistill_cli.method.scorers.templates import Templates
from pudistill_cli.models.checkpoint_files import read_json
from pudistill_cli.models.model_file import ReadsModelFiles
from pudistill_cli.models.rendered_words import encode_in_full
from pudistill_cli.models.student import Student, resolve_student
from pudistill_cli.run.kept_elsewhere import refuse_damaged_model
from pudistill_cli.run.plan import DEFAULT_CONTEXT
from pudistill_cli.types import Message, Tokens


@dataclass(frozen=True, slots=True)
class JudgeSettings:
    """How the judge is loaded and asked: what a recipe says about it, or the defaults."""

    templates: Templates
    student: StudentSettings
    bare_text: bool = False
    """Without a chat template."""

    @classmethod
    def from_recipe(cls, recipe: Recipe | None, model: str) -> JudgeSettings:
        """With a recipe as its runs ask, but this model, whatever student it names."""
        if recipe is None:
            return cls(Templates(), StudentSettings(model=model))
        format = recipe.prompts.format
        student = recipe.student.model_copy(update={"model": model, "revision": None, "original": None})
        return cls(recipe.rank.templates(format), student, format == "text")

    def in_several_wordings(self) -> JudgeSettings:
        """The same, asked in the vetted second wordings too."""
        return replace(self, templates=self.templates.in_several_wordings())


@dataclass(frozen=True, slots=True)
class LoadedJudge:
    """A judge that is ready to be asked."""

    judge: Judge
    context: int
    """The longest sequence that it reads, in tokens."""
    description: str
    """Its size and backend, for the user."""


@contextmanager
def open_judge(
    settings: JudgeSettings,
    adapter: Path | None,
    engine: str,
    context: int | None,
    warn: Callable[[str], None],
) -> Generator[LoadedJudge]:
    """Find and load the model; it is freed at the end of the block.

    Raises:
        DataError: model or adapter are not there, not whole, or in a format that is not read.
        BackendError: no backend here can score with it.
    """
    if adapter is not None and not (adapter / "adapter_config.json").is_file():
        raise DataError(
            f"{adapter} holds no adapter_config.json.", "Name an adapter's folder: runs/NAME/adapters/sft, say."
        )
    for path in (adapter, Path(settings.student.model)):
        if path is not None:
            refuse_damaged_model(path)
    student_settings = settings.student
    student = resolve_student(
        student_settings.model,
        context=context or student_settings.context,
        format="text" if settings.bare_text else "chat",
    )
    if not settings.bare_text:
        student = student.answering(student_settings.template_kwargs)
    for notice in student.notices:
        warn(notice)
    backend, placement = _backend_for(student, engine, student_settings.device)
    for notice in placement.notices:
        warn(notice)
    reads = student.context if context or student_settings.context else min(student.context, DEFAULT_CONTEXT)
    model = backend.open(_spec(student, backend, student_settings, placement.device, reads))
    try:
        handle = None if adapter is None else model.load_adapter(adapter)
        judge = Judge(
            engine=retrying_engine(model, halving_notice(warn)),
            adapter=handle,
            encode=_encoder(student, settings),
            encode_answer=student.tokenizer.encode_answer,
            decode=student.tokenizer.decode,
            templates=settings.templates,
            context=reads,
            warn=warn,
        )
        yield LoadedJudge(judge, reads, f"{student.parameters:,} parameters, through {backend.name}")
    finally:
        model.close()


def _backend_for(student: Student, engine: str, device: str) -> tuple[Backend, Placement]:
    """The named backend, or the one that fits the machine, and where; it must score, and hold this checkpoint."""
    hardware = detect()
    config = read_json(student.folder / "config.json")
    demand = demand_of(config, student.parameters, device=device, gguf=student.gguf is not None)

    def refusal(asked: Backend) -> str | None:
        return None if _own_file(student, asked) else asked.refusal(student.folder)

    backend, placement = choose_inference_backend(engine, backends(), hardware, demand, refusal)
    problem = refusal(backend)
    if problem is None and not backend.capabilities.score:
        problem = "it cannot score"
    known = backend.architectures()
    if problem is None and known is not None and student.model_type not in known:
        problem = f"it does not know the model type {student.model_type!r}"
    if problem is not None:
        raise BackendError(f"The {backend.name} backend cannot judge with this model: {problem}.", "Use --backend auto")
    if student.gguf is not None and _own_file(student, backend):  # in as many bits as it has
        need = student.gguf.stat().st_size / 2**30 + demand.engine_gib(0)
        placement = choose_device(hardware, "the model", need, device)
    return backend, placement


def _own_file(student: Student, backend: Backend) -> bool:
    """Whether the backend opens the student's GGUF file itself."""
    return student.gguf is not None and isinstance(backend, ReadsModelFiles)


def _spec(student: Student, backend: Backend, settings: StudentSettings, device: str, context: int) -> ModelSpec:
    spec = ModelSpec(
        folder=student.folder,
        stop_tokens=tuple(student.tokenizer.stop_tokens),
        context=context,
        device=device,
        dtype=settings.dtype,
        threads=settings.threads,
        token_budget=settings.token_budget or TOKEN_BUDGET,
    )
    return replace(spec, folder=student.gguf) if student.gguf and _own_file(student, backend) else spec


def _encoder(student: Student, settings: JudgeSettings) -> Callable[[tuple[Message, ...]], Tokens]:
    variables: dict[str, Any] = settings.student.template_kwargs

    def encode(messages: tuple[Message, ...]) -> Tokens:
        if settings.bare_text:
            return student.tokenizer.encode_text(messages[-1].content)
        return encode_in_full(student.tokenizer, messages, variables, "judge")

    return encode
