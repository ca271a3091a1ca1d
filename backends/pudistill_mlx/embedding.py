"""A token embedding times a constant, where mlx-lm's own constant is rounded."""

from __future__ import annotations

import mlx.core as mx
from mlx import nn


class RescaledEmbedding(nn.Embedding):
    """Tokens are embedded as by `base`, times `factor`; as an output layer it is `base`."""

    def __init__(self, base: nn.Embedding, factor: float) -> None:
        nn.Module.__init__(self)
        self.weight = base.weight
        self._factor = factor

    def __call__(self, x: mx.array) -> mx.array:
        """(...) ids -> (..., D)"""
        return super().__call__(x) * self._factor
