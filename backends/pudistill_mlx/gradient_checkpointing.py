"""Gradient checkpointing of a model's blocks: their inputs are kept, and backward computes the rest again."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from copy import copy
from typing import Any

import mlx.core as mx

from pudistill_mlx import device_limits
from pudistill_mlx.cache import LayerRows
from pudistill_mlx.lora import LowRank, Switch
from pudistill_mlx.model import Model

SHARE = 0.25
"""Of the memory that the device recommends: what activations may take before they are computed twice instead."""


@contextmanager
def checkpointed_if_large(model: Model, tokens: int, row: int) -> Iterator[None]:
    """Checkpoint inside the block if a backward pass over `tokens` tokens in rows of `row` would keep too much."""
    if activation_bytes(model, tokens, row) <= SHARE * device_limits.recommended_bytes():
        yield
        return
    with checkpointed(model):
        yield


def activation_bytes(model: Model, tokens: int, row: int) -> int:
    """What a backward pass keeps, estimated: tokens * (5/4 * widths + heads * row * (bytes + 2)).

    `widths` are the bytes that all adapted layers read and write, their inputs once more in float32 where the base has
    another precision: the adapter's gradient needs them. MLX's fused attention has no backward pass, so that the scores
    are kept, `row` of them a head. Fitted to the peaks of six small models
    (tests/backends/pudistill_mlx/test_gradient_checkpointing.py).
    """
    size = model.placement.mlx_dtype.size
    copied = 0 if size == 4 else 4
    widths = sum(out * size + into * (size + copied) for out, into in model.shapes.values())
    heads = len(model.causal.layers) * int(getattr(model.causal.args, "num_attention_heads", 0))
    return tokens * (5 * widths // 4 + heads * row * (size + 2))


@contextmanager
def checkpointed(model: Model) -> Iterator[None]:
    """Inside the block each of the model's blocks is of a class of its own, which checkpoints the call."""
    names = {id(module): f"{name}." for name, module in model.causal.named_modules()}
    own = [(block, type(block)) for block in model.causal.layers]
    classes = {kind: _checkpointing(kind, names, model.switch) for _, kind in own}
    try:
        for block, kind in own:
            block.__class__ = classes[kind]
        yield
    finally:
        for block, kind in own:
            block.__class__ = kind


def _checkpointing(kind: type, names: dict[int, str], switch: Switch) -> type:
    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        return _checkpointed_call(self, kind, names[id(self)], switch, args, kwargs)

    return type(kind.__name__, (kind,), {"__call__": call})


def _checkpointed_call(
    block: Any, kind: type, name: str, switch: Switch, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Any:
    """The block's call under mx.checkpoint.

    What is differentiated goes in as an argument: an array that the function closes over would get no gradient. For the
    same reason the cache that the block appends to is a copy, whose columns come out as results.
    """
    given: dict[Any, Any] = dict(enumerate(args)) | kwargs
    differentiated = {key: x for key, x in given.items() if _is_floating(x)}
    at = next((key for key, x in given.items() if isinstance(x, LayerRows)), None)
    cache: LayerRows | None = given.get(at)
    # Backward traces `run` again, when the cache has long grown and another adapter may be on.
    before = copy(cache)
    adapter = {n: low for n, low in switch.active.items() if n.startswith(name)}

    def run(inputs: list[mx.array], pairs: list[tuple[mx.array, mx.array]], held: list[Any]) -> Any:
        now = given | dict(zip(differentiated, inputs, strict=True))
        rows = None if before is None else _holding(before, *held)
        if rows is not None:
            now[at] = rows
        low = {n: LowRank(*pair, x.scale) for (n, x), pair in zip(adapter.items(), pairs, strict=True)}
        with switch.on(low):
            out = kind.__call__(block, *(now[i] for i in range(len(args))), **{k: now[k] for k in kwargs})
        return out, None if rows is None else (rows.keys, rows.values)

    held: list[Any] = [] if cache is None or cache.keys is None else [cache.keys, cache.values]
    pairs = [(low.a, low.b) for low in adapter.values()]
    out, columns = mx.checkpoint(run)(list(differentiated.values()), pairs, held)
    if cache is not None:
        cache.keys, cache.values = columns
        cache.used = columns[0].shape[2]
    return out


def _holding(cache: LayerRows, keys: mx.array | None = None, values: mx.array | None = None) -> LayerRows:
    """The cache with other keys and values of the same shape."""
    other = copy(cache)
    other.keys, other.values = keys, values
    return other


def _is_floating(value: object) -> bool:
    return isinstance(value, mx.array) and mx.issubdtype(value.dtype, mx.floating)
