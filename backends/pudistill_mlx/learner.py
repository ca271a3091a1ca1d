"""The learner: the trained adapter, its optimizer, and the update."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np

from pudistill_cli.backend_api import training_state
from pudistill_cli.backend_api.contract import Batch, LoraSpec, Metrics, OptimizerSpec, SftBatch
from pudistill_cli.backend_api.learner import BaseLearner, check_finite
from pudistill_cli.errors import DataError
from pudistill_mlx import device_limits, policy, scoring
from pudistill_mlx.adapter_files import read_adapter, write_adapter
from pudistill_mlx.gradients import Accumulated, group_gradient, sft_gradient
from pudistill_mlx.model import Model
from pudistill_mlx.optimizer import Optimizer, global_norm


class MlxLearner(BaseLearner[Model]):
    """See `contract.Learner`."""

    def __init__(self, model: Model, lora: LoraSpec, optimizer: OptimizerSpec) -> None:
        super().__init__(model, scoring, lora)
        self._settings = optimizer
        self._scale = lora.alpha / lora.r
        self._policy = policy.fresh(model.shapes, lora)
        self._optimizer = Optimizer(optimizer)
        device_limits.use_limits(model.placement.device)

    def restore(self, path: Path) -> None:
        """Read what `save` wrote, or an adapter alone: then the optimizer starts anew.

        Raises:
            DataError: it is not whole, or was trained with another rank or scale.
        """
        adapter = read_adapter(path, self.model.shapes)
        if adapter.keys() != self.model.shapes.keys():
            missing = sorted(self.model.shapes.keys() - adapter.keys())
            raise DataError(f"The adapter {path} has nothing for {missing[0]}.", "Run the stage before it again.")
        for low in adapter.values():
            self._check_rank(path, len(low.a), low.scale)
        arrays, optimizer = policy.as_arrays(adapter), Optimizer(self._settings)
        if training_state.is_there(path):
            training_state.read(path, partial(optimizer.restore, arrays))
        self._policy, self._optimizer = arrays, optimizer

    def close(self) -> None:
        """Free everything that no engine shares."""
        self._policy = {}
        self.model.release()

    def _step(self, batch: Batch, lr: float) -> Metrics:
        total = self._gradient(batch)
        norm = global_norm(total.gradient)
        check_finite(total.metrics["loss"], norm)
        self._policy = self._optimizer.update(self._policy, total.gradient, norm, lr)
        return {**total.metrics, "grad_norm": norm}

    def _gradient(self, batch: Batch) -> Accumulated:
        if isinstance(batch, SftBatch):
            return sft_gradient(self.model, self._policy, self._scale, batch)
        return group_gradient(self.model, self._policy, self._scale, batch)

    def _write_adapter(self, folder: Path) -> None:
        adapter = policy.as_adapter(self._policy, self._scale)
        write_adapter(folder, adapter, self._lora.r, self._lora.alpha)

    def _write_state(self, folder: Path) -> None:
        moments = {name: np.array(moment) for name, moment in self._optimizer.moments().items()}
        training_state.write(folder, moments, self._optimizer.steps)
