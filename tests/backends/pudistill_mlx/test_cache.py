"""Keys and values that branch, join, leave and grow hold what a cache of each row alone would."""

from __future__ import annotations

from collections.abc import Sequence

import mlx.core as mx
import numpy as np
import pytest
from numpy.typing import NDArray

from pudistill_mlx.cache import ROOM, LayerRows, RowCache

HEADS, WIDTH = 2, 3


def columns(rows: int, count: int, first: int = 0) -> mx.array:
    """Columns that say their row and number, shape (rows, heads, count, width)."""
    row, column = mx.arange(rows)[:, None, None, None], mx.arange(first, first + count)[None, None, :, None]
    return mx.broadcast_to(100.0 * row + column, (rows, HEADS, count, WIDTH))


def cache_of(padding: Sequence[int], count: int, *, window: int | None = None, grows: bool = False) -> RowCache:
    cache = RowCache([LayerRows(window, 4, grows=grows)], padding)
    new = columns(len(padding), count)
    cache.layers[0].update_and_fetch(new, -new)
    return cache


def held(cache: RowCache) -> NDArray[np.float32]:
    """(rows, columns) of the first head, values checked against keys."""
    (layer,) = cache.layers
    assert layer.keys is not None
    assert layer.values is not None
    keys, values = np.array(layer.keys[..., : layer.used, :]), np.array(layer.values[..., : layer.used, :])
    np.testing.assert_array_equal(keys, -values)
    return keys[:, 0, :, 0]


def test_rows_are_chosen_and_columns_dropped() -> None:
    cache = cache_of([0, 2, 1], 4).rows([2, 1, 2], drop=1)
    assert held(cache).tolist() == [[201, 202, 203], [101, 102, 103], [201, 202, 203]]
    assert cache.padding == [0, 1, 0]
    assert cache.layers[0].padding is not None
    assert np.array(cache.layers[0].offset).tolist() == [3, 2, 3]


def test_no_padding_is_no_array() -> None:
    """Kernels are faster without a mask, and a position that is the same for all is a number."""
    cache = cache_of([0, 2], 4).rows([0, 0])
    assert cache.layers[0].padding is None
    assert cache.layers[0].offset == 4


def test_a_shorter_cache_is_padded_on_the_left() -> None:
    one, two = cache_of([1], 2), cache_of([0, 0], 4)
    for both, rows, padding in (
        (one.joined(two), [[0, 0, 0, 1], [0, 1, 2, 3], [100, 101, 102, 103]], [3, 0, 0]),
        (two.joined(one), [[0, 1, 2, 3], [100, 101, 102, 103], [0, 0, 0, 1]], [0, 0, 3]),
    ):
        assert held(both).tolist() == rows
        assert both.padding == padding


@pytest.mark.parametrize("grows", [False, True])
def test_columns_are_appended(grows: bool) -> None:
    """Over the end of the room that is allocated ahead."""
    cache, steps = cache_of([0, 0], 3, grows=grows), ROOM + 5
    for column in range(3, steps):
        new = columns(2, 1, column)
        keys, _ = cache.layers[0].update_and_fetch(new, -new)
        assert keys.shape[2] == column + 1
        mx.eval(keys)
    assert held(cache).tolist() == [list(range(steps)), list(range(100, 100 + steps))]


def test_a_branch_does_not_write_into_what_it_came_from() -> None:
    prefix = cache_of([0], 3)
    for value in (7.0, 8.0):
        branch = prefix.rows([0, 0], grows=True)
        new = mx.full((2, HEADS, 1, WIDTH), value)
        branch.layers[0].update_and_fetch(new, -new)
        assert held(branch)[:, 3].tolist() == [value, value]
    assert held(prefix).tolist() == [[0, 1, 2]]


def seen(cache: RowCache, length: int, **settings: bool) -> list[list[list[int]]]:
    """Per row and new token, the columns that it sees."""
    mask = cache.layers[0].make_mask(length, return_array=True, **settings)
    assert isinstance(mask, mx.array)
    shape = (len(cache.padding), length, cache.used + length)
    every = np.broadcast_to(np.array(mask).reshape(-1, *mask.shape[-2:]), shape)
    return [[np.flatnonzero(token).tolist() for token in row] for row in every]


def test_masks_by_hand() -> None:
    assert seen(cache_of([0], 2), 2) == [[[0, 1, 2], [0, 1, 2, 3]]]
    assert seen(cache_of([0, 1], 2), 2) == [[[0, 1, 2], [0, 1, 2, 3]], [[1, 2], [1, 2, 3]]]
    assert seen(cache_of([0], 2, window=2), 2) == [[[1, 2], [2, 3]]]
    assert seen(cache_of([0, 1], 2, window=3), 2) == [[[0, 1, 2], [1, 2, 3]], [[1, 2], [1, 2, 3]]]


def test_padding_sees_itself_alone() -> None:
    """A row of the softmax with nothing in it would be NaN."""
    empty = RowCache([LayerRows(None, 4)], [2])
    assert seen(empty, 4) == [[[0], [1], [2], [2, 3]]]


def test_no_mask_where_none_is_needed() -> None:
    assert cache_of([0], 2).layers[0].make_mask(1) is None
    assert cache_of([0], 2).layers[0].make_mask(3) == "causal"
    assert cache_of([0], 2, window=3).layers[0].make_mask(1) is None
    assert cache_of([0], 3, window=3).layers[0].make_mask(1) is not None


def test_an_axis_more_for_grouped_heads() -> None:
    layer = RowCache([LayerRows(None, 5)], [1, 0]).layers[0]
    mask = layer.make_mask(3)
    assert isinstance(mask, mx.array)
    assert mask.shape == (2, 1, 1, 3, 3)
