"""Levels and their packing are MLX's, and cost nothing where scales are rounded."""

from __future__ import annotations

from itertools import product

import mlx.core as mx
import numpy as np
import pytest

from pudistill_mlx.export import packing
from pudistill_mlx.export.packing import levels, packed, requantised

CASES = list(product((3, 4, 5, 6, 8), (32, 64, 128)))


def weights(rows: int = 64, columns: int = 512) -> mx.array:
    return mx.array(np.random.default_rng(0).normal(size=(rows, columns)).astype(np.float32))


def test_levels_by_hand() -> None:
    """scale 0.5, bias -1: -1 is 0, -0.3 is 1.4 and so 1, 0.3 is 2.6 and so 3, 9 is beyond 4 bits' last level."""
    weight = mx.array([[-1.0, -0.3, 0.3, 9.0]])
    assert levels(weight, mx.array([[0.5]]), mx.array([[-1.0]]), 4).tolist() == [[0, 1, 3, 15]]


def test_packing_by_hand() -> None:
    """The lowest bits first: 4 bits of 0 .. 7 are 0x76543210; 3 bits are octal 76543210 = 0xFAC688, end to end."""
    chosen = mx.array([list(range(8)) * 4])
    assert packed(chosen, 4).tolist() == [[0x76543210] * 4]
    assert packed(chosen, 3).tolist() == [[0x88FAC688, 0xC688FAC6, 0xFAC688FA]]


@pytest.mark.parametrize(("bits", "group"), CASES)
def test_with_its_own_scales_it_is_what_mlx_quantises(bits: int, group: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packing, "_BLOCK", 512 * 10)  # the last block is smaller
    wanted, scales, biases = mx.quantize(weights(), group, bits)
    found = requantised(weights(), scales, biases, bits)
    assert found.dtype == wanted.dtype
    np.testing.assert_array_equal(np.array(found), np.array(wanted))


def error(weight: mx.array, chosen: mx.array, scales: mx.array, biases: mx.array, bits: int) -> float:
    """Root mean square."""
    wide = (x.astype(mx.float32) for x in (scales, biases))
    return float(mx.sqrt(mx.mean(mx.square(mx.dequantize(chosen, *wide, 64, bits) - weight))))


@pytest.mark.parametrize("dtype", [mx.bfloat16, mx.float16])
@pytest.mark.parametrize("bits", [3, 4, 5, 6, 8])
def test_rounded_scales_lose_next_to_nothing(bits: int, dtype: mx.Dtype) -> None:
    weight = weights()
    exact, scales, biases = mx.quantize(weight, 64, bits)
    rounded = scales.astype(dtype), biases.astype(dtype)
    least = error(weight, exact, scales, biases, bits)
    assert error(weight, requantised(weight, *rounded, bits), *rounded, bits) < 1.02 * least
    if bits == 8 and dtype == mx.bfloat16:  # what levels chosen before the rounding would lose
        assert error(weight, exact, *rounded, bits) > 1.4 * least
