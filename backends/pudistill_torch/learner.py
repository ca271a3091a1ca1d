"""The learner: the trained adapter, its optimizer, and the update."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import torch
from torch.nn.utils import clip_grad_norm_

from pudistill_cli.backend_api import training_state
from pudistill_cli.backend_api.contract import Batch, LoraSpec, Metrics, OptimizerSpec, SftBatch
from pudistill_cli.backend_api.learner import BaseLearner, check_finite
from pudistill_torch import optimizer_state, scoring
from pudistill_torch.adapter_files import read_adapter, write_adapter
from pudistill_torch.gradients import group_gradient, sft_gradient
from pudistill_torch.model import POLICY, Model


class TorchLearner(BaseLearner[Model]):
    """See `contract.Learner`."""

    def __init__(self, model: Model, lora: LoraSpec, optimizer: OptimizerSpec) -> None:
        super().__init__(model, scoring, lora)
        self._settings = optimizer
        self._parameters = model.new_policy(lora)
        self._optimizer = self._fresh_optimizer()
        self._steps = 0

    def restore(self, path: Path) -> None:
        """Read what `save` wrote, or an adapter alone: then the optimizer starts anew.

        Raises:
            DataError: it is not whole, or was trained with another rank or scale.
        """
        config, weights = read_adapter(path)
        self._check_rank(path, config.r, config.lora_alpha / config.r)
        self.model.set_weights(POLICY, weights)
        self._optimizer, self._steps = self._fresh_optimizer(), 0
        if training_state.is_there(path):
            self._steps = training_state.read(path, partial(optimizer_state.restore, self._optimizer))

    def close(self) -> None:
        """Free everything that no engine shares."""
        self.model.drop_adapter(POLICY)
        self.model.release()

    def _step(self, batch: Batch, lr: float) -> Metrics:
        try:
            gradient = sft_gradient if isinstance(batch, SftBatch) else group_gradient
            metrics = gradient(self.model, batch)  # type: ignore[arg-type]
            norm = float(clip_grad_norm_(self._parameters, self._settings.clip_norm))
            check_finite(metrics["loss"], norm)
            for group in self._optimizer.param_groups:
                group["lr"] = lr
            self._optimizer.step()
        finally:
            self._optimizer.zero_grad(set_to_none=True)
        self._steps += 1
        return {**metrics, "grad_norm": norm}

    def _fresh_optimizer(self) -> torch.optim.AdamW:
        settings = self._settings
        return torch.optim.AdamW(
            self._parameters, betas=settings.betas, eps=settings.eps, weight_decay=settings.weight_decay, fused=True
        )

    def _write_adapter(self, folder: Path) -> None:
        write_adapter(folder, self.model.config(POLICY), self.model.weights(POLICY))

    def _write_state(self, folder: Path) -> None:
        training_state.write(folder, optimizer_state.arrays_of(self._optimizer), self._steps)
