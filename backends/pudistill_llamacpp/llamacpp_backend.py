"""The backend object: what it can do and whether it can run, told without importing llama.cpp."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from pudistill_cli.backend_api.contract import Capabilities, Engine, LoraSpec, ModelSpec, OptimizerSpec
from pudistill_cli.backend_api.exporter import ExportRequest, WrittenExport
from pudistill_cli.errors import BackendError
from pudistill_cli.types import Adapter

if TYPE_CHECKING:
    from pudistill_cli.models.model_file import ModelFile, StudentFiles
    from pudistill_llamacpp.engine import LlamaCppEngine

NEEDED = {"llama_cpp": "llama-cpp-python", "gguf": "gguf"}


class LlamaCppBackend:
    """Sampling and scoring through llama.cpp, on any machine; learning is another backend's."""

    name = "llamacpp"
    capabilities = Capabilities(sample=True, score=True, exports=frozenset({"gguf", "gguf-adapter"}))

    def problem(self) -> str | None:
        """The packages that are missing, or None."""
        missing = [package for module, package in NEEDED.items() if find_spec(module) is None]
        if not missing:
            return None
        return (
            f'{", ".join(missing)} not installed; pip install "pudistill[llamacpp]" (compiles for about five minutes)'
        )

    def architectures(self) -> frozenset[str] | None:
        """The `model_type`s that can be converted."""
        from pudistill_llamacpp.convert.architectures import ARCHITECTURES

        return frozenset(ARCHITECTURES)

    def refusal(self, checkpoint: Path) -> str | None:
        """Why this checkpoint cannot be converted."""
        from pudistill_llamacpp.convert import feasibility

        return feasibility.problem(checkpoint)

    def describe(self, spec: ModelSpec) -> Mapping[str, str]:
        """Device, threads and options that `spec` resolves to here.

        Raises:
            UsageError: an option that is unknown.
            BackendError: the device it names is not there.
        """
        from pudistill_llamacpp.placement import place

        return place(spec).describe()

    def measured(self, spec: ModelSpec, weights_gib: float | None) -> Mapping[str, str]:
        """As `describe`, with the fastest type of weights that fits `weights_gib`, and the fastest number of threads.

        Raises:
            UsageError, BackendError: as `describe`.
        """
        from pudistill_llamacpp.speed import measured

        return measured(spec, weights_gib).describe()

    def open(self, spec: ModelSpec) -> LlamaCppEngine:
        """Load the model for sampling and scoring, converted first unless it is a GGUF file that is opened as it is.

        Raises:
            BackendError: the machine or the architecture does not fit.
            DataError: the checkpoint or the file is not whole.
        """
        from pudistill_llamacpp.engine import LlamaCppEngine

        return LlamaCppEngine(spec)

    def learn(self, spec: ModelSpec, lora: LoraSpec, optimizer: OptimizerSpec, engine: Engine | None) -> NoReturn:
        """Never possible: llama.cpp computes no gradients of adapters."""
        raise BackendError("llama.cpp cannot train adapters.", "Let another backend learn: --set backend.learner=torch")

    # --- GGUF files as students and teachers ---

    def read_model(self, path: Path) -> ModelFile:
        """See `pudistill_cli.models.model_file.ReadsModelFiles`."""
        from pudistill_llamacpp.gguf_student.read import read_model

        return read_model(path)

    def read_student(self, path: Path) -> StudentFiles:
        """See `pudistill_cli.models.model_file.ReadsModelFiles`."""
        from pudistill_llamacpp.gguf_student.read import read_student

        return read_student(path)

    # --- exports ---

    def export_problem(self, student: Path, format: str, variant: str, converter: Path | None) -> str | None:
        """Why this student cannot be written so, in one line with what to do."""
        from pudistill_llamacpp import exporting

        return exporting.export_problem(student, format, variant, converter)

    def export_bytes(self, student: Path, format: str, variant: str) -> int:
        """Most bytes that are on disk at once while it is written."""
        from pudistill_llamacpp import exporting

        return exporting.export_bytes(student, format, variant)

    def write_export(self, request: ExportRequest) -> WrittenExport:
        """Write GGUF files; ExportError if one cannot be written."""
        from pudistill_llamacpp import exporting

        return exporting.write_export(request)

    def open_export(
        self, request: ExportRequest, written: WrittenExport, spec: ModelSpec
    ) -> tuple[LlamaCppEngine, Adapter | None]:
        """The export in llama.cpp, and the adapter to name in each call."""
        from pudistill_llamacpp import exporting

        return exporting.open_export(request, written, spec)

    def open_base(self, request: ExportRequest, spec: ModelSpec) -> LlamaCppEngine:
        """The student as it came, in llama.cpp."""
        from pudistill_llamacpp import exporting

        return exporting.open_base(request, spec)

    def check_export(self, request: ExportRequest, written: WrittenExport, texts: Sequence[str]) -> tuple[str, ...]:
        """Notices; ExportError if llama.cpp reads or ends something differently."""
        from pudistill_llamacpp import exporting

        return exporting.check_export(request, written, texts)
