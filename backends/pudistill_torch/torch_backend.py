"""The backend object: what it can do and whether it can run, told without importing torch."""

from __future__ import annotations

import ast
from collections.abc import Mapping
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from pudistill_cli.backend_api.contract import Capabilities, Engine, LoraSpec, ModelSpec, OptimizerSpec
from pudistill_cli.backend_api.speed_trials import thread_counts
from pudistill_cli.errors import UsageError
from pudistill_cli.models.checkpoint_files import read_json

if TYPE_CHECKING:
    from pudistill_torch.engine import TorchEngine
    from pudistill_torch.learner import TorchLearner

NEEDED = ("torch", "transformers", "peft")


class TorchBackend:
    """Sampling, scoring and LoRA training through transformers and peft."""

    name = "torch"
    capabilities = Capabilities(
        sample=True,
        score=True,
        learn=True,
        distils=True,
        exports=frozenset({"hf", "adapter"}),
    )

    def problem(self) -> str | None:
        """The packages that are missing, or None."""
        missing = [package for package in NEEDED if find_spec(package) is None]
        if not missing:
            return None
        return f'{", ".join(missing)} not installed; pip install "pudistill[torch]"'

    def architectures(self) -> frozenset[str] | None:
        """The causal language models of the installed transformers, read from its source without running it."""
        return _causal_model_types()

    def refusal(self, checkpoint: Path) -> str | None:
        """Why torch cannot hold this checkpoint; None where it does not know the architecture, which is told so."""
        known = self.architectures()
        if known is not None and read_json(checkpoint / "config.json").get("model_type") not in known:
            return None
        from pudistill_torch.refusal import problem

        return problem(checkpoint)

    def describe(self, spec: ModelSpec) -> Mapping[str, str]:
        """Device, dtype and thread count that `spec` resolves to here.

        Raises:
            BackendError: the device it names is not there, or cannot do its dtype.
            UsageError: options, of which it has none.
        """
        if spec.options:
            raise UsageError("The torch backend has no options.", "Leave backend.options out, or name another engine.")
        from pudistill_torch.placement import place

        return place(spec).describe()

    def measured(self, spec: ModelSpec, weights_gib: float | None) -> Mapping[str, str]:
        """As `describe`, with the number of CPU threads that trains fastest; a small student has one.

        Raises:
            BackendError, UsageError: as `describe`.
        """
        described = self.describe(spec)
        from pudistill_torch.placement import is_small, place
        from pudistill_torch.thread_choice import fastest_threads

        placement, counts = place(spec), thread_counts()
        if spec.threads or placement.device.type != "cpu" or is_small(spec.folder) or len(counts) == 1:
            return described
        return {**described, "threads": str(fastest_threads(spec.folder, placement, counts))}

    def open(self, spec: ModelSpec) -> TorchEngine:
        """Load the model for sampling and scoring.

        Raises:
            BackendError: the machine or the architecture does not fit.
            DataError: the checkpoint is not whole.
        """
        from pudistill_torch.engine import TorchEngine

        return TorchEngine(spec)

    def learn(self, spec: ModelSpec, lora: LoraSpec, optimizer: OptimizerSpec, engine: Engine | None) -> TorchLearner:
        """Load the model for training; an engine of this backend with the same `spec` lends its weights.

        Raises:
            BackendError: as `open`.
        """
        from pudistill_torch.engine import TorchEngine
        from pudistill_torch.learner import TorchLearner
        from pudistill_torch.model import Model

        if isinstance(engine, TorchEngine) and engine.spec == spec:
            return TorchLearner(engine.model, lora, optimizer)
        return TorchLearner(Model(spec), lora, optimizer)


@cache
def _causal_model_types() -> frozenset[str] | None:
    """Keys of MODEL_FOR_CAUSAL_LM_MAPPING_NAMES; None where this version keeps them elsewhere."""
    spec = find_spec("transformers")
    if spec is None or spec.origin is None:
        return None
    source = Path(spec.origin).parent / "models" / "auto" / "modeling_auto.py"
    if not source.is_file():
        return None
    for node in ast.parse(source.read_bytes()).body:
        if not isinstance(node, ast.Assign) or not isinstance(node.value, ast.Call):
            continue
        names = [target.id for target in node.targets if isinstance(target, ast.Name)]
        if "MODEL_FOR_CAUSAL_LM_MAPPING_NAMES" in names:
            return frozenset(model_type for model_type, _ in ast.literal_eval(node.value.args[0]))
    return None
