"""The learner: the trained adapter, its optimizer, and the update."""

from __future__ import annotations

import math
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from pudistill_cli.atomic_files import replace_folder
from pudistill_cli.backend_api.contract import Batch, LoraSpec, Metrics, OptimizerSpec, SftBatch
from pudistill_cli.backend_api.micro_batching import longest_request, smallest_pass
from pudistill_cli.backend_api.oom_errors import told, watched
from pudistill_cli.errors import DataError, TrainingError
from pudistill_cli.types import Adapter, Continuations, Floats
from pudistill_mlx import memory, policy, scoring, training_state
from pudistill_mlx.adapter_files import read_adapter, write_adapter
from pudistill_mlx.gradients import Accumulated, group_gradient, sft_gradient
from pudistill_mlx.model import Model
from pudistill_mlx.optimizer import Optimizer, global_norm


class MlxLearner:
    """See `contract.Learner`."""

    def __init__(self, model: Model, lora: LoraSpec, optimizer: OptimizerSpec) -> None:
        self.model = model
        self.model.users += 1
        self._lora, self._settings = lora, optimizer
        self._scale = lora.alpha / lora.r
        self._policy = policy.fresh(model.shapes, lora)
        self._optimizer = Optimizer(optimizer)
        self._smallest_pass = 1
        memory.use_limits(model.placement.device)

    # --- training ---

    def step(self, batch: Batch, lr: float) -> Metrics:
        """One optimizer step.

        Raises:
            TrainingError: it is not finite, or (OutOfMemory) memory or the device's time is short; the adapter is then
                unchanged.
        """
        self._smallest_pass = smallest_pass(batch)
        with told("train", memory.is_shortage):
            found = self._gradient(batch)
            norm = global_norm(found.gradient)
            if not (math.isfinite(found.metrics["loss"]) and math.isfinite(norm)):
                raise TrainingError(
                    f"loss {found.metrics['loss']}, gradient norm {norm}: not finite.", "Try a lower learning rate."
                )
            self._policy = self._optimizer.update(self._policy, found.gradient, norm, lr)
        return {**found.metrics, "grad_norm": norm}

    def _gradient(self, batch: Batch) -> Accumulated:
        if isinstance(batch, SftBatch):
            return sft_gradient(self.model, self._policy, self._scale, batch)
        return group_gradient(self.model, self._policy, self._scale, batch)

    def halve_budget(self) -> int | None:
        """Passes of half the size; None where each held a single row of the last call already."""
        return self.model.halve(math.inf, self._smallest_pass)

    # --- scoring ---

    def logprobs(
        self, requests: Sequence[Continuations], adapter: Adapter | None
    ) -> Iterator[tuple[int, tuple[Floats, ...]]]:
        """Yield (index, per continuation (T,) log-probs)."""
        self._smallest_pass = longest_request(requests)
        return watched("score", memory.is_shortage, scoring.logprobs(self.model, requests, adapter))

    def load_adapter(self, path: Path) -> Adapter:
        """Load a snapshot, frozen; DataError if it is not whole or not this student's."""
        return self.model.load_adapter(path)

    def drop_adapter(self, adapter: Adapter) -> None:
        """Forget a snapshot."""
        self.model.drop_adapter(adapter)

    # --- state ---

    def snapshot(self, path: Path) -> Path:
        """Write the adapter in PEFT's format; `path` appears whole or not at all."""
        with _whole(path) as folder:
            self._write_adapter(folder)
        return path

    def save(self, path: Path) -> None:
        """Write adapter, optimizer and position; `path` appears whole or not at all."""
        with _whole(path) as folder:
            self._write_adapter(folder)
            training_state.write(folder, self._optimizer)

    def restore(self, path: Path) -> None:
        """Read what `save` wrote, or an adapter alone: then the optimizer starts anew.

        Raises:
            DataError: it is not whole, or was trained with another rank or scale.
        """
        adapter = read_adapter(path, self.model.shapes)
        if adapter.keys() != self.model.shapes.keys():
            missing = sorted(self.model.shapes.keys() - adapter.keys())
            raise DataError(f"The adapter {path} has nothing for {missing[0]}.", "Run the stage before it again.")
        own = (self._lora.r, self._scale)
        for low in adapter.values():
            if (len(low.a), low.scale) != own:
                r, alpha = len(low.a), low.scale * len(low.a)
                raise DataError(
                    f"{path} has rank {r} and alpha {alpha:g}, the recipe {self._lora.r} and {self._lora.alpha:g}.",
                    f"Use --set lora.r={r} --set lora.alpha={alpha:g}",
                )
        arrays, optimizer = policy.as_arrays(adapter), Optimizer(self._settings)
        if training_state.is_there(path):
            training_state.read(path, optimizer, arrays)
        self._policy, self._optimizer = arrays, optimizer

    def close(self) -> None:
        """Free everything that no engine shares."""
        self._policy = {}
        self.model.release()

    def _write_adapter(self, folder: Path) -> None:
        adapter = policy.as_adapter(self._policy, self._scale)
        write_adapter(folder, adapter, self._lora.r, self._lora.alpha)


@contextmanager
def _whole(path: Path) -> Iterator[Path]:
    """A temporary folder that becomes `path` at the end of the block, synced; an older `path` goes then."""
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_name(f".{path.name}.tmp")
    shutil.rmtree(new, ignore_errors=True)
    new.mkdir()
    try:
        yield new
        replace_folder(new, path)
    finally:
        shutil.rmtree(new, ignore_errors=True)
