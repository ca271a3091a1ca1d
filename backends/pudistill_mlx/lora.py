"""LoRA on linear layers that are not touched: which adapter runs is decided at each call, by a switch all share."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import mlx.core as mx
from mlx import nn
from mlx.utils import tree_unflatten


@dataclass(frozen=True, slots=True)
class LowRank:
    """What an adapter adds to one layer: scale * B A x (Hu et al. 2022, eq. 3), in PEFT's orientation."""

    a: mx.array  # (r, in)
    b: mx.array  # (out, r)
    scale: float


LowRanks = Mapping[str, LowRank]
"""An adapter: by the layer's name, which is that of the checkpoint's weight without `.weight`."""


class Switch:
    """The adapter that runs now."""

    def __init__(self) -> None:
        self.active: LowRanks = {}

    @contextmanager
    def on(self, adapter: LowRanks) -> Iterator[None]:
        """Run with an adapter inside the block; an empty one is the bare base."""
        before, self.active = self.active, adapter
        try:
            yield
        finally:
            self.active = before


class AdaptedLinear(nn.Module):
    """A linear layer, quantised or not, and what the active adapter adds to it."""

    def __init__(self, base: nn.Module, name: str, switch: Switch) -> None:
        super().__init__()
        self.base = base
        self._name, self._switch = name, switch

    def __call__(self, x: mx.array) -> mx.array:
        """(..., in) -> (..., out); the addition is computed in the adapter's precision."""
        y = self.base(x)
        low = self._switch.active.get(self._name)
        if low is None:
            return y
        return y + (low.scale * ((x @ low.a.T) @ low.b.T)).astype(y.dtype)


def linear_layers(model: Any) -> dict[str, Any]:
    """The linear layers of the blocks by name, in the order of names; neither embeddings nor head."""
    layers = {
        name: module
        for name, module in model.named_modules()
        if ".layers." in f".{name}" and isinstance(module, nn.Linear | nn.QuantizedLinear)
    }
    return dict(sorted(layers.items()))


def adapt(model: Any, switch: Switch) -> dict[str, tuple[int, int]]:
    """Put an AdaptedLinear around every linear layer of the blocks; returns their (out, in) shapes by name."""
    layers = linear_layers(model)
    model.update_modules(tree_unflatten([(n, AdaptedLinear(layer, n, switch)) for n, layer in layers.items()]))
    return {name: _shape(layer) for name, layer in layers.items()}


def _shape(layer: Any) -> tuple[int, int]:
    rows, columns = layer.weight.shape
    return rows, columns * 32 // layer.bits if isinstance(layer, nn.QuantizedLinear) else columns
