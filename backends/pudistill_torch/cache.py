"""Keys and values of many rows, which grow in place, branch from a shared prefix, join and leave."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor
from torch.nn.functional import pad
from transformers import Cache
from transformers.cache_utils import DynamicLayer

ROOM = 32
"""Columns allocated ahead, so that a decoding step writes one column and copies nothing."""


class Columns:
    """(rows, heads, length, width) numbers: the used part of a longer buffer."""

    def __init__(self, parts: Sequence[Tensor], length: int) -> None:
        """Rows from several parts, each padded on the left to `length`."""
        if torch.is_grad_enabled():  # a graph allows no writing in place, so room would be of no use
            self._buffer = torch.cat([pad(part, (0, 0, length - part.shape[-2], 0)) for part in parts])
        else:
            self._buffer = _with_room(parts, length)
        self.used = self._buffer[..., :length, :]

    def append(self, new: Tensor) -> Tensor:
        """Columns behind the others; returns all of them."""
        start, end = self.used.shape[-2], self.used.shape[-2] + new.shape[-2]
        if torch.is_grad_enabled():
            self._buffer = torch.cat([self.used, new], dim=-2)
        else:
            if end > self._buffer.shape[-2]:
                self._buffer = _with_room([self.used], start, end - start)
            self._buffer[..., start:end, :] = new
        self.used = self._buffer[..., :end, :]
        return self.used


class RowLayer(DynamicLayer):
    """One layer's keys and values; a full cache for sliding windows too, whose mask does the sliding."""

    columns: tuple[Columns, Columns]

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: object, **kwargs: object
    ) -> tuple[Tensor, Tensor]:
        """Append keys and values of new columns; returns all of them."""
        if not self.is_initialized:
            return self.hold(
                Columns([key_states], key_states.shape[-2]), Columns([value_states], value_states.shape[-2])
            )
        keys, values = self.columns
        self.keys, self.values = keys.append(key_states), values.append(value_states)
        return self.keys, self.values

    def hold(self, keys: Columns, values: Columns) -> tuple[Tensor, Tensor]:
        """Take these; returns them."""
        self.columns, self.is_initialized = (keys, values), True
        self.dtype, self.device = keys.used.dtype, keys.used.device
        self.keys, self.values = keys.used, values.used
        return self.keys, self.values


class RowCache(Cache):
    """The cache of a batch of rows, padded on the left so that all end at the same column."""

    def __init__(self) -> None:
        super().__init__(layer_class_to_replicate=RowLayer)

    def rows(self, index: Tensor, drop: int = 0) -> RowCache:
        """A new cache of the rows at `index` (N,), repeats allowed, without the first `drop` columns."""
        chosen = [[x.used[..., drop:, :].index_select(0, index) for x in pair] for pair in self._columns()]
        return _cache([[Columns([x], x.shape[-2]) for x in pair] for pair in chosen])

    def joined(self, other: RowCache) -> RowCache:
        """A new cache with the other's rows below these; the shorter one is padded on the left."""
        length = max(self.get_seq_length(), other.get_seq_length())
        layers = zip(self._columns(), other._columns(), strict=True)
        return _cache([[Columns([a.used, b.used], length) for a, b in zip(*pairs, strict=True)] for pairs in layers])

    def _columns(self) -> list[tuple[Columns, Columns]]:
        return [cast("RowLayer", layer).columns for layer in self.layers]


def _cache(layers: Sequence[Sequence[Columns]]) -> RowCache:
    result = RowCache()
    for keys, values in layers:
        layer = RowLayer()
        layer.hold(keys, values)
        result.layers.append(layer)
    return result


def _with_room(parts: Sequence[Tensor], length: int, more: int = 0) -> Tensor:
    """The parts' rows, padded on the left to `length`, in one buffer with `more` columns and room behind them."""
    heads, width = parts[0].shape[1], parts[0].shape[-1]
    buffer = parts[0].new_empty((sum(map(len, parts)), heads, length + more + ROOM, width))
    first = 0
    for part in parts:
        own, padding = buffer[first : first + len(part)], length - part.shape[-2]
        own[:, :, :padding] = 0  # masked, but a NaN left there would still spread
        own[:, :, padding:length] = part
        first += len(part)
    return buffer
