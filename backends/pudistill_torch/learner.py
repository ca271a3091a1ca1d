"""The learner: the trained adapter, its optimizer, and the update."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import inf
from pathlib import Path

import torch
from torch.nn.utils import clip_grad_norm_

from pudistill_cli.backend_api.contract import Batch, LoraSpec, Metrics, OptimizerSpec, SftBatch
from pudistill_cli.backend_api.micro_batching import longest_request, smallest_pass
from pudistill_cli.backend_api.oom_errors import told, watched
from pudistill_cli.errors import DataError, TrainingError
from pudistill_cli.types import Adapter, Continuations, Floats
from pudistill_torch import memory, scoring, training_state
from pudistill_torch.adapter_files import read_adapter, whole_folder, write_adapter
from pudistill_torch.gradients import group_gradient, sft_gradient
from pudistill_torch.model import POLICY, Model


class TorchLearner:
    """See `contract.Learner`."""

    def __init__(self, model: Model, lora: LoraSpec, optimizer: OptimizerSpec) -> None:
        self.model = model
        self.model.users += 1
        self._settings = optimizer
        self._parameters = model.new_policy(lora)
        self._optimizer = self._fresh_optimizer()
        self._steps = 0
        self._smallest_pass = 1

    # --- training ---

    def step(self, batch: Batch, lr: float) -> Metrics:
        """One optimizer step; TrainingError if it is not finite or memory is short, the adapter then unchanged."""
        self._smallest_pass = smallest_pass(batch)
        try:
            with told("train", memory.is_shortage):
                gradient = sft_gradient if isinstance(batch, SftBatch) else group_gradient
                metrics = gradient(self.model, batch)  # type: ignore[arg-type]
                norm = float(clip_grad_norm_(self._parameters, self._settings.clip_norm))
                self._refuse_non_finite(metrics["loss"], norm)
                for group in self._optimizer.param_groups:
                    group["lr"] = lr
                self._optimizer.step()
        finally:
            self._optimizer.zero_grad(set_to_none=True)
        self._steps += 1
        return {**metrics, "grad_norm": norm}

    def _refuse_non_finite(self, loss: float, norm: float) -> None:
        if not (torch.isfinite(torch.tensor([loss, norm])).all()):
            raise TrainingError(f"loss {loss}, gradient norm {norm}: not finite.", "Try a lower learning rate.")

    def halve_budget(self) -> int | None:
        """Passes of half the size; None where each held a single row of the last call already."""
        return self.model.halve(inf, self._smallest_pass)

    def _fresh_optimizer(self) -> torch.optim.AdamW:
        settings = self._settings
        return torch.optim.AdamW(
            self._parameters, betas=settings.betas, eps=settings.eps, weight_decay=settings.weight_decay, fused=True
        )

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
        with whole_folder(path) as folder:
            self._write_adapter(folder)
        return path

    def save(self, path: Path) -> None:
        """Write adapter, optimizer, RNG and position; `path` appears whole or not at all."""
        with whole_folder(path) as folder:
            self._write_adapter(folder)
            training_state.write(folder, self._optimizer, self._steps)

    def restore(self, path: Path) -> None:
        """Read what `save` wrote, or an adapter alone: then the optimizer starts anew.

        Raises:
            DataError: it is not whole, or was trained with another rank or scale.
        """
        config, weights = read_adapter(path)
        own = self.model.config(POLICY)
        if (config.r, config.lora_alpha) != (own.r, own.lora_alpha):
            raise DataError(
                f"{path} has rank {config.r} and alpha {config.lora_alpha}, the recipe {own.r} and {own.lora_alpha}.",
                f"Use --set lora.r={config.r} --set lora.alpha={config.lora_alpha}",
            )
        self.model.set_weights(POLICY, weights)
        self._optimizer = self._fresh_optimizer()
        self._steps = training_state.read(path, self._optimizer) if training_state.is_there(path) else 0

    def close(self) -> None:
        """Free everything that no engine shares."""
        self.model.drop_adapter(POLICY)
        self.model.release()

    def _write_adapter(self, folder: Path) -> None:
        write_adapter(folder, self.model.config(POLICY), self.model.weights(POLICY))
