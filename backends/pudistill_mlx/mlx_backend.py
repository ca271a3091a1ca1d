"""The backend object: what it can do and whether it can run, told without importing MLX."""

from __future__ import annotations

import ast
from collections.abc import Mapping, Sequence
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from pudistill_cli.backend_api.contract import Capabilities, Engine, LoraSpec, ModelSpec, OptimizerSpec
from pudistill_cli.backend_api.exporter import ExportRequest, WrittenExport
from pudistill_cli.types import Adapter

if TYPE_CHECKING:
    from pudistill_mlx.engine import MlxEngine
    from pudistill_mlx.learner import MlxLearner

NEEDED = {"mlx": "mlx", "mlx_lm": "mlx-lm"}


class MlxBackend:
    """Sampling, scoring, LoRA training and export through MLX: native on Apple Silicon, slow on a Linux CPU."""

    name = "mlx"
    capabilities = Capabilities(
        sample=True,
        score=True,
        learn=True,
        distils=True,
        exports=frozenset({"mlx"}),
        quantised_bases=frozenset({"8bit", "4bit"}),
    )

    def problem(self) -> str | None:
        """The packages that are missing, or None."""
        missing = [package for module, package in NEEDED.items() if find_spec(module) is None]
        return f'{", ".join(missing)} not installed; pip install "pudistill[mlx]"' if missing else None

    def architectures(self) -> frozenset[str] | None:
        """The models of the installed mlx-lm, by the names of its files and of those it runs as another."""
        return _model_types()

    def refusal(self, checkpoint: Path) -> str | None:
        """Why MLX cannot hold this checkpoint."""
        from pudistill_mlx.refusal import problem

        return problem(checkpoint)

    def describe(self, spec: ModelSpec) -> Mapping[str, str]:
        """Device and dtype that `spec` resolves to here.

        Raises:
            BackendError: the device it names is not there, or it cannot hold the student so.
            UsageError: options, of which it has none.
        """
        from pudistill_mlx.placement import place

        return place(spec).describe()

    def open(self, spec: ModelSpec) -> MlxEngine:
        """Load the model for sampling and scoring.

        Raises:
            BackendError: the machine or the architecture does not fit.
            DataError: the checkpoint is not whole.
        """
        from pudistill_mlx.engine import MlxEngine

        return MlxEngine(spec)

    def learn(self, spec: ModelSpec, lora: LoraSpec, optimizer: OptimizerSpec, engine: Engine | None) -> MlxLearner:
        """Load the model for training; an engine of this backend with the same `spec` lends its weights.

        Raises:
            BackendError: as `open`.
        """
        from pudistill_mlx.engine import MlxEngine
        from pudistill_mlx.learner import MlxLearner
        from pudistill_mlx.model import Model

        if isinstance(engine, MlxEngine) and engine.spec == spec:
            return MlxLearner(engine.model, lora, optimizer)
        return MlxLearner(Model(spec), lora, optimizer)

    # --- exports ---

    def export_problem(self, student: Path, format: str, variant: str, converter: Path | None) -> str | None:
        """Why this student cannot be written so, in one line with what to do."""
        from pudistill_mlx import export

        return export.export_problem(student, format, variant, converter)

    def export_bytes(self, student: Path, format: str, variant: str) -> int:
        """Most bytes that are on disk at once while it is written."""
        from pudistill_mlx import export

        return export.export_bytes(student, format, variant)

    def write_export(self, request: ExportRequest) -> WrittenExport:
        """Write MLX weights; ExportError if they cannot be written."""
        from pudistill_mlx import export

        return export.write_export(request)

    def open_export(
        self, request: ExportRequest, written: WrittenExport, spec: ModelSpec
    ) -> tuple[MlxEngine, Adapter | None]:
        """The export in MLX."""
        from pudistill_mlx import export

        return export.open_export(request, written, spec)

    def open_base(self, request: ExportRequest, spec: ModelSpec) -> MlxEngine:
        """The student as it came, in MLX."""
        from pudistill_mlx import export

        return export.open_base(request, spec)

    def check_export(self, request: ExportRequest, written: WrittenExport, texts: Sequence[str]) -> tuple[str, ...]:
        """Notices; ExportError if mlx-lm reads or ends something differently."""
        from pudistill_mlx import export

        return export.check_export(request, written, texts)


@cache
def _model_types() -> frozenset[str] | None:
    """Files of `mlx_lm/models` and keys of MODEL_REMAPPING; None where this version keeps them elsewhere."""
    spec = find_spec("mlx_lm")
    if spec is None or spec.origin is None:
        return None
    package = Path(spec.origin).parent
    files = {path.stem for path in (package / "models").glob("*.py") if b"\nclass Model(" in path.read_bytes()}
    return frozenset(files | _renamed(package / "utils.py")) if files else None


def _renamed(source: Path) -> set[str]:
    if not source.is_file():
        return set()
    for node in ast.parse(source.read_bytes()).body:
        if isinstance(node, ast.Assign) and "MODEL_REMAPPING" in [getattr(t, "id", "") for t in node.targets]:
            return set(ast.literal_eval(node.value))
    return set()
