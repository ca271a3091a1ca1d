"""AdamW and clipping by the global norm, with torch's arithmetic; an update is done whole or not at all."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import mlx.core as mx
from mlx.optimizers import AdamW
from mlx.utils import tree_map
from numpy.typing import NDArray

from pudistill_cli.backend_api.contract import OptimizerSpec
from pudistill_mlx.policy import Arrays

_CLIP_EPS = 1e-6
"""torch's own in `clip_grad_norm_`."""


class Optimizer:
    """The moments of the trained arrays, and how often they were updated."""

    def __init__(self, spec: OptimizerSpec) -> None:
        self._clip_norm = spec.clip_norm
        self._adamw = AdamW(
            learning_rate=0.0,  # given with each step
            betas=list(spec.betas),
            eps=spec.eps,
            weight_decay=spec.weight_decay,
            bias_correction=True,
        )

    @property
    def _state(self) -> dict[str, Any]:
        return self._adamw.state

    @property
    def steps(self) -> int:
        """Updates so far."""
        return int(self._adamw.step)

    def update(self, policy: Arrays, gradient: Arrays, norm: float, lr: float) -> Arrays:
        """The arrays after a step against `gradient`, whose global norm is `norm`; evaluated."""
        before = tree_map(lambda x: x, self._state)
        shrink = min(1.0, self._clip_norm / (norm + _CLIP_EPS))
        try:
            self._adamw.learning_rate = lr
            updated = self._adamw.apply_gradients({n: g * shrink for n, g in gradient.items()}, policy)
            mx.eval(updated, self._state)
        except BaseException:
            self._adamw.state = before
            raise
        return updated

    def moments(self) -> Arrays:
        """Both moments of every array, as `<array>.m` and `<array>.v`; none before the first update."""
        return {f"{n}.{k}": x for n, held in self._state.items() if isinstance(held, dict) for k, x in held.items()}

    def restore(self, policy: Arrays, moments: Mapping[str, NDArray[Any]], steps: int) -> None:
        """Go on behind `steps` updates; KeyError where a moment is missing, ValueError where one has another shape."""
        if steps:
            self._adamw.init(policy)
            for name, array in policy.items():
                held = {kind: mx.array(moments[f"{name}.{kind}"]) for kind in ("m", "v")}
                if any(x.shape != array.shape for x in held.values()):
                    raise ValueError(f"the moments of {name} have another shape")
                self._state[name] = held
        self._state["step"] = mx.array(steps, mx.uint64)


def global_norm(gradient: Arrays) -> float:
    """The Euclidean norm of all arrays together; NaN or infinite where any number is."""
    return float(mx.sqrt(mx.stack([mx.square(g).sum() for g in gradient.values()]).sum()))
