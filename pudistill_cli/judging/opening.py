"""A student opened as a judge: any model that can be a student, through any backend, with or without an adapter."""

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
from pudistill_cli.hardware.memory_estimate import TOKEN_BUDGET, demand_of
from pudistill_cli.hardware.selection import Placement, detect, place, runner
from pudistill_cli.method.scorers import Judge
from pudistill_cli.method.scorers.templates import Templates
from pudistill_cli.models.checkpoint_files import read_json
from pudistill_cli.models.model_file import ReadsModelFiles
from pudistill_cli.models.student import Student, resolve_student
from pudistill_cli.run.plan import DEFAULT_CONTEXT
from pudistill_cli.types import Message, Tokens


@dataclass(frozen=True, slots=True)
class Manner:
    """How the judge is asked: what a recipe says about it, or the defaults."""

    templates: Templates
    student: StudentSettings
    text: bool = False
    """Bare text, without a chat template."""

    @classmethod
    def of(cls, model: str, recipe: Recipe | None) -> Manner:
        """With a recipe as its runs ask, whatever student it names."""
        if recipe is None:
            return cls(Templates(), StudentSettings(model=model))
        format = recipe.prompts.format
        student = recipe.student.model_copy(update={"model": model, "revision": None, "original": None})
        return cls(recipe.rank.templates(format), student, format == "text")

    def several(self) -> Manner:
        """The same in the vetted second wordings too."""
        return replace(self, templates=self.templates.in_several_wordings())


@dataclass(frozen=True, slots=True)
class Opened:
    """A judge that is ready, its context in tokens, and how to name it."""

    judge: Judge
    context: int
    about: str


@contextmanager
def open_judge(
    manner: Manner,
    adapter: Path | None,
    engine: str,
    context: int | None,
    warn: Callable[[str], None],
) -> Generator[Opened]:
    """Find and load the model; it is freed at the end of the block.

    Raises:
        DataError: model or adapter are not there, not whole, or in a format that is not read.
        BackendError: no backend here can score with it.
    """
    if adapter is not None and not (adapter / "adapter_config.json").is_file():
        raise DataError(
            f"{adapter} holds no adapter_config.json.", "Name an adapter's folder: runs/NAME/adapters/sft, say."
        )
    settings = manner.student
    student = resolve_student(
        settings.model,
        context=context or settings.context,
        format="text" if manner.text else "chat",
    )
    for notice in student.notices:
        warn(notice)
    backend, placement = _runner(student, engine, settings.device)
    for notice in placement.notices:
        warn(notice)
    reads = student.context if context or settings.context else min(student.context, DEFAULT_CONTEXT)
    opened = backend.open(_spec(student, backend, settings, placement.device, reads))
    try:
        handle = None if adapter is None else opened.load_adapter(adapter)
        judge = Judge(
            engine=retrying_engine(opened, halving_notice(warn)),
            adapter=handle,
            encode=_encoder(student, manner),
            encode_answer=student.tokenizer.encode_answer,
            decode=student.tokenizer.decode,
            templates=manner.templates,
            context=reads,
            tell=warn,
        )
        yield Opened(judge, reads, f"{student.parameters:,} parameters, through {backend.name}")
    finally:
        opened.close()


def _runner(student: Student, engine: str, device: str) -> tuple[Backend, Placement]:
    """The named backend, or the one that fits the machine, and where; it must score, and hold this checkpoint."""
    hardware = detect()
    config = read_json(student.folder / "config.json")
    demand = demand_of(config, student.parameters, device=device, gguf=student.gguf is not None)

    def refusal(asked: Backend) -> str | None:
        return None if _own_file(student, asked) else asked.refusal(student.folder)

    backend, placement = runner(engine, backends(), hardware, demand, refusal)
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
        placement = place(hardware, "the model", need, device)
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


def _encoder(student: Student, manner: Manner) -> Callable[[tuple[Message, ...]], Tokens]:
    variables: dict[str, Any] = manner.student.template_kwargs

    def encode(messages: tuple[Message, ...]) -> Tokens:
        if manner.text:
            return student.tokenizer.encode_text(messages[-1].content)
        return student.tokenizer.encode_prompt(messages, **variables)

    return encode
