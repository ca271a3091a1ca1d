"""Keys and values of many rows: they branch from a shared prefix, grow in place, join and leave.

It stands where mlx-lm's own caches do. Theirs forget what has left a sliding window; here the mask does the sliding,
so that rows of different lengths can share columns.
"""

from __future__ import annotations

from collections.abc import Sequence

import mlx.core as mx

ROOM = 256
"""Columns allocated ahead while decoding, so that a step writes one column and copies nothing."""


class LayerRows:
    """One layer's keys and values (rows, heads, columns, width), padded on the left so that all end together."""

    def __init__(self, window: int | None, mask_axes: int, *, grows: bool = False) -> None:
        self._window, self._mask_axes, self._grows = window, mask_axes, grows
        self.keys: mx.array | None = None
        self.values: mx.array | None = None
        self.used = 0
        self.padding: mx.array | None = None
        """(rows,) columns before a row's first token; None where there are none."""

    @property
    def offset(self) -> int | mx.array:
        """The position of the next token: one for all rows, or (rows,)."""
        return self.used if self.padding is None else self.used - self.padding

    def update_and_fetch(self, keys: mx.array, values: mx.array) -> tuple[mx.array, mx.array]:
        """Append columns; returns all of them."""
        start, end = self.used, self.used + keys.shape[2]
        if not self._grows:
            self.keys = keys if self.keys is None else mx.concatenate([self.keys, keys], axis=2)
            self.values = values if self.values is None else mx.concatenate([self.values, values], axis=2)
        else:
            self.keys = _written(self.keys, keys, start)
            self.values = _written(self.values, values, start)
        self.used = end
        assert self.keys is not None
        assert self.values is not None
        return self.keys[..., :end, :], self.values[..., :end, :]

    def make_mask(
        self, length: int, return_array: bool = False, window_size: int | None = None
    ) -> mx.array | str | None:
        """What the next `length` tokens may see: true is seen, None is everything."""
        columns = self.used + length
        window = window_size or self._window
        if window is not None and columns <= window:
            window = None
        if self.padding is None and window is None:
            if length == 1:
                return None
            if not return_array:
                return "causal"
        at, seen = mx.arange(self.used, columns)[:, None], mx.arange(columns)[None]
        mask = at >= seen
        if window is not None:
            mask = mask & (at < seen + window)
        if self.padding is not None:
            # Padding sees itself: a row of the softmax with nothing in it would be NaN, and spread.
            real = self.padding.reshape(-1, *[1] * (self._mask_axes - 1)) <= seen
            mask = (mask & real) | (at == seen)
        return mask

    def rows(self, index: mx.array, drop: int, *, grows: bool) -> LayerRows:
        """The rows at `index` (N,), repeats allowed, without the first `drop` columns."""
        chosen = LayerRows(self._window, self._mask_axes, grows=grows)
        assert self.keys is not None
        assert self.values is not None
        chosen.keys = self.keys[:, :, drop : self.used][index]
        chosen.values = self.values[:, :, drop : self.used][index]
        chosen.used = self.used - drop
        return chosen

    def joined(self, other: LayerRows, length: int) -> LayerRows:
        """The other's rows below these, each padded on the left to `length` columns."""
        both = LayerRows(self._window, self._mask_axes, grows=self._grows)
        both.keys = mx.concatenate([_padded(x.keys, x.used, length) for x in (self, other)])
        both.values = mx.concatenate([_padded(x.values, x.used, length) for x in (self, other)])
        both.used = length
        return both


class RowCache:
    """The layers of a batch of rows."""

    def __init__(self, layers: Sequence[LayerRows], padding: Sequence[int]) -> None:
        """Rows with `padding` columns before their first token."""
        self.layers = list(layers)
        self.padding = list(padding)
        shift = mx.array(self.padding) if any(self.padding) else None
        for layer in self.layers:
            layer.padding = shift

    @property
    def used(self) -> int:
        """Columns so far."""
        return self.layers[0].used

    def rows(self, index: Sequence[int], drop: int = 0, *, grows: bool = False) -> RowCache:
        """A new cache of the rows at `index`; with `grows` it has room to be written in place."""
        at = mx.array(list(index))
        layers = [layer.rows(at, drop, grows=grows) for layer in self.layers]
        return RowCache(layers, [self.padding[i] - drop for i in index])

    def joined(self, other: RowCache) -> RowCache:
        """A new cache with the other's rows below these; the shorter one is padded on the left."""
        length = max(self.used, other.used)
        layers = [a.joined(b, length) for a, b in zip(self.layers, other.layers, strict=True)]
        padding = [p + length - cache.used for cache in (self, other) for p in cache.padding]
        return RowCache(layers, padding)


def _written(buffer: mx.array | None, new: mx.array, start: int) -> mx.array:
    """`new` behind the `start` columns in use, in a buffer that grows by whole ROOMs."""
    end = start + new.shape[2]
    if buffer is None or end > buffer.shape[2]:
        rows, heads, _, width = new.shape
        fresh = mx.zeros((rows, heads, -(-(end + 1) // ROOM) * ROOM - start, width), new.dtype)
        buffer = fresh if buffer is None else mx.concatenate([buffer[..., :start, :], fresh], axis=2)
    buffer[..., start:end, :] = new
    return buffer


def _padded(part: mx.array | None, used: int, length: int) -> mx.array:
    assert part is not None
    return mx.pad(part[..., :used, :], [(0, 0), (0, 0), (length - used, 0), (0, 0)])
