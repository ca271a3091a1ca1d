"""The learner that every framework has; the gradient and the update are the framework's."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from math import inf, isfinite
from pathlib import Path
from typing import Generic, TypeVar

from pudistill_cli.backend_api.contract import Batch, LoraSpec, Metrics
from pudistill_cli.backend_api.finite_numbers import require_finite_adapter
from pudistill_cli.backend_api.micro_batching import longest_request, smallest_pass
from pudistill_cli.backend_api.oom_errors import as_out_of_memory, each_as_out_of_memory
from pudistill_cli.backend_api.shared_model import ScoringModule, SharedModel
from pudistill_cli.errors import DataError, TrainingError
from pudistill_cli.files.atomic_files import whole_folder
from pudistill_cli.types import Adapter, Continuations, Floats

M = TypeVar("M", bound=SharedModel)


class BaseLearner(ABC, Generic[M]):
    """See `contract.Learner`; the model may be an engine's too."""

    def __init__(self, model: M, scoring: ScoringModule[M], lora: LoraSpec) -> None:
        self.model = model
        self._scoring = scoring
        self.model.users += 1
        self._lora = lora
        self._smallest_pass = 1

    # --- training ---

    def step(self, batch: Batch, lr: float) -> Metrics:
        """One optimizer step.

        Raises:
            TrainingError: it is not finite, or (OutOfMemory) memory or the device's time is short; the adapter is then
                unchanged.
        """
        self._smallest_pass = smallest_pass(batch)
        with as_out_of_memory("train", self.model.is_out_of_memory):
            return self._step(batch, lr)

    def halve_budget(self) -> int | None:
        """Passes of half the size; None where each held a single row of the last call already."""
        return self.model.halve(inf, self._smallest_pass)

    # --- scoring ---

    def logprobs(
        self, requests: Sequence[Continuations], adapter: Adapter | None
    ) -> Iterator[tuple[int, tuple[Floats, ...]]]:
        """Yield (index, per continuation (T,) log-probs)."""
        self._smallest_pass = longest_request(requests)
        return each_as_out_of_memory(
            "score", self.model.is_out_of_memory, self._scoring.logprobs(self.model, requests, adapter)
        )

    def load_adapter(self, path: Path) -> Adapter:
        """Load a snapshot, frozen; DataError if it is not whole or not this student's."""
        return self.model.load_adapter(path)

    def drop_adapter(self, adapter: Adapter) -> None:
        """Forget a snapshot."""
        self.model.drop_adapter(adapter)

    # --- state ---

    def snapshot(self, path: Path) -> Path:
        """Write the adapter in PEFT's format; `path` appears whole or not at all (TrainingError: it is not finite)."""
        with whole_folder(path) as folder:
            self._write_adapter(folder)
            require_finite_adapter(folder)
        return path

    def save(self, path: Path) -> None:
        """Write adapter, optimizer and position; `path` appears whole or not at all."""
        with whole_folder(path) as folder:
            self._write_adapter(folder)
            require_finite_adapter(folder)
            self._write_state(folder)

    def _check_rank(self, path: Path, r: int, scale: float) -> None:
        """Refuse the adapter of `path` if it is not of this learner's rank and scale (DataError)."""
        own = self._lora
        if (r, scale) != (own.r, own.alpha / own.r):
            alpha = scale * r
            raise DataError(
                f"{path} has rank {r} and alpha {alpha:g}, the recipe {own.r} and {own.alpha:g}.",
                f"Use --set lora.r={r} --set lora.alpha={alpha:g}",
            )

    # --- a framework's own ---

    @abstractmethod
    def _step(self, batch: Batch, lr: float) -> Metrics:
        """See `step`."""

    @abstractmethod
    def _write_adapter(self, folder: Path) -> None:
        """Write the adapter into an existing folder, in PEFT's format."""

    @abstractmethod
    def _write_state(self, folder: Path) -> None:
        """Write the rest of what `restore` needs to go on as if never stopped."""


def check_finite(loss: float, norm: float) -> None:
    """Refuse a step that would spoil the adapter.

    Raises:
        TrainingError: the loss or the gradient's norm is not finite.
    """
    if not (isfinite(loss) and isfinite(norm)):
        raise TrainingError(f"loss {loss}, gradient norm {norm}: not finite.", "Try a lower learning rate.")
