"""Keys and values of many rows, which grow in place, branch from a shared prefix, join and leave."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import pad
from transformers import Cache
from transformers.cache_utils import DynamicLayer

ROOM = 32
"""Columns allocated ahead, so that a decoding step writes one column and copies nothing."""


class RowLayer(DynamicLayer):
    """One layer's keys and values, (rows, heads, length, width); a full cache for sliding windows too.

    `keys` and `values` are views of the used part of two longer buffers.
    """

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Start with no columns."""
        self.dtype, self.device = key_states.dtype, key_states.device
        self.keys = self._key_buffer = key_states[..., :0, :]
        self.values = self._value_buffer = value_states[..., :0, :]
        self.is_initialized = True

    def update(self, key_states: Tensor, value_states: Tensor, *args: object, **kwargs: object) -> tuple[Tensor, Tensor]:
        """Append columns; in place unless a graph is recorded, which needs the older ones unchanged."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        if torch.is_grad_enabled():
            self.keys = self._key_buffer = torch.cat([self.keys, key_states], dim=-2)
            self.values = self._value_buffer = torch.cat([self.values, value_states], dim=-2)
        else:
            self._key_buffer, self.keys = _append(self._key_buffer, self.keys, key_states)
            self._value_buffer, self.values = _append(self._value_buffer, self.values, value_states)
        return self.keys, self.values

    def fill(self, keys: Sequence[Tensor], values: Sequence[Tensor], length: int) -> RowLayer:
        """Take rows from several parts, each padded on the left to `length`, with room behind them."""
        self.lazy_initialization(keys[0], values[0])
        self._key_buffer, self.keys = _gathered(keys, length)
        self._value_buffer, self.values = _gathered(values, length)
        return self


class RowCache(Cache):
    """The cache of a batch of rows, padded on the left so that all end at the same column."""

    def __init__(self) -> None:
        super().__init__(layer_class_to_replicate=RowLayer)

    def rows(self, index: Tensor, drop: int = 0) -> RowCache:
        """A new cache of the rows at `index` (N,), repeats allowed, without the first `drop` columns."""
        result = RowCache()
        for layer in self.layers:
            keys, values = (x[..., drop:, :].index_select(0, index) for x in (layer.keys, layer.values))
            result.layers.append(RowLayer().fill([keys], [values], keys.shape[-2]))
        return result

    def joined(self, other: RowCache) -> RowCache:
        """A new cache with the other's rows below these; the shorter one is padded on the left."""
        length = max(self.get_seq_length(), other.get_seq_length())
        result = RowCache()
        for above, below in zip(self.layers, other.layers, strict=True):
            keys, values = [above.keys, below.keys], [above.values, below.values]
            result.layers.append(RowLayer().fill(keys, values, length))
        return result


def _append(buffer: Tensor, used: Tensor, new: Tensor) -> tuple[Tensor, Tensor]:
    """Write `new` behind `used`, a view of `buffer`, which is replaced by a longer one when it is full."""
    start, end = used.shape[-2], used.shape[-2] + new.shape[-2]
    if end > buffer.shape[-2]:
        buffer = new.new_empty((*new.shape[:2], end + ROOM, new.shape[-1]))
        buffer[..., :start, :] = used
    buffer[..., start:end, :] = new
    return buffer, buffer[..., :end, :]


def _gathered(parts: Sequence[Tensor], length: int) -> tuple[Tensor, Tensor]:
    """The parts' rows in one buffer with room, and the view of its used columns."""
    if torch.is_grad_enabled():  # a graph wants no writing in place, and grows by copying anyway
        whole = torch.cat([pad(part, (0, 0, length - part.shape[-2], 0)) for part in parts])
        return whole, whole
    rows = sum(map(len, parts))
    buffer = parts[0].new_empty((rows, parts[0].shape[1], length + ROOM, parts[0].shape[-1]))
    first = 0
    for part in parts:
        own, padding = buffer[first : first + len(part)], length - part.shape[-2]
        own[:, :, :padding] = 0  # masked, but a NaN left there would still spread
        own[:, :, padding:length] = part
        first += len(part)
    return buffer, buffer[..., :length, :]
