"""What a backend with exports of its own is as well, and the plain data that crosses the line for it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

from pudistill_cli.backend_api.contract import Engine, ModelSpec
from pudistill_cli.types import Adapter, Sampling, Tokens


@dataclass(frozen=True, slots=True)
class GenerationSettings:
    """How the run prompted the student and sampled from it: what a runtime has to do alike."""

    format: Literal["chat", "text"] = "chat"
    """By its chat template, or as bare text."""
    variables: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """The recipe's settings for the template."""
    sampling: Sampling = field(default_factory=lambda: Sampling(max_new_tokens=0))


@dataclass(frozen=True, slots=True)
class ExportRequest:
    """The trained student, to be written in one of a backend's formats.

    The adapter is added to the original checkpoint in float32; what a format quantises is that sum.
    """

    student: Path
    """What is exported: a folder in Hugging Face form, or the GGUF file that the student came as."""
    checkpoint: Path
    """The same weights in Hugging Face form."""
    adapter: Path
    """A PEFT folder."""
    format: str
    variant: str
    """How it is stored: a quantisation's name, a number of bits; "" where the format has one way only."""
    out: Path
    """An empty folder."""
    name: str
    """Of the model, for metadata and file names."""
    context: int
    stop_tokens: Tokens
    calibration: tuple[Tokens, ...]
    """Training prompts with their anchors: what an importance matrix is measured on."""
    generation: GenerationSettings = field(default_factory=GenerationSettings)
    now: datetime = field(default_factory=datetime.now)
    """What the chat template's clock showed in the run that trained the adapter, by local time."""
    converter: Path | None = None
    """A checkout of llama.cpp, whose converter is used for what our own writer does not know."""


@dataclass(frozen=True, slots=True)
class WrittenExport:
    """What a backend wrote."""

    model: Path
    """What the format's own runtime opens; `Backend.open` takes it as `ModelSpec.folder`, an adapter as a path."""
    report: Mapping[str, object] = field(default_factory=dict[str, object])
    """What was really written (tensor types, bytes), for the export's card."""
    notices: tuple[str, ...] = ()
    """What the user should know of it."""
    next_steps: tuple[str, ...] = ()
    """Commands to type, one a line."""
    kl_limit: float | None = None
    """Mean next-token KL in nats that the runtime's arithmetic may show where nothing else differs.

    None where the format rounds more than that: what it loses is then held against what training changed.
    """


@runtime_checkable
class Exporter(Protocol):
    """What a backend with `capabilities.exports` is as well. Its runs may come from any backend."""

    def export_problem(self, student: Path, format: str, variant: str, converter: Path | None) -> str | None:
        """Why this student cannot be written so, in one line with what to do; found before training, no weight read."""
        ...

    def export_bytes(self, student: Path, format: str, variant: str) -> int:
        """Most bytes that are on disk at once while it is written."""
        ...

    def write_export(self, request: ExportRequest) -> WrittenExport:
        """Write the format's files into `request.out`.

        Raises:
            ExportError: it cannot be written.
        """
        ...

    def open_export(
        self, request: ExportRequest, written: WrittenExport, spec: ModelSpec
    ) -> tuple[Engine, Adapter | None]:
        """The export in its own runtime, and the adapter to name in each call; `spec` is the run's."""
        ...

    def open_base(self, request: ExportRequest, spec: ModelSpec) -> Engine:
        """The student as it came, in the runtime of `open_export`: what differs from training is then the runtime."""
        ...

    def check_export(self, request: ExportRequest, written: WrittenExport, texts: Sequence[str]) -> tuple[str, ...]:
        """Compare what is not a distribution: token ids of `texts`, chat template, stop tokens, end of turn.

        Returns notices: what the format itself cannot do alike.

        Raises:
            ExportError: the runtime would read or end something differently.
        """
        ...
