"""Levels and their packing are MLX's, and cost nothing where scales are rounded."""

from __future__ import annotations

from itertools import product
from pathlib import Path
from typing import Any, Literal

import mlx.core as mx
import numpy as np
import pytest
from mlx_lm.utils import quantize_model

from pudistill_cli.models.tokenizer import StudentTokenizer
from pudistill_mlx.export import packing
from pudistill_mlx.export.packing import levels, packed, requantised
from pudistill_mlx.export.storing import open_model, store
from pudistill_mlx.export.variants import Variant
from tests.backends.pudistill_mlx.export.exports import Array, mean_kl, normalised
from tests.tiny import ROOT, lines_of

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
    ours = requantised(weights(), scales, biases, bits)
    assert ours.dtype == wanted.dtype
    np.testing.assert_array_equal(np.array(ours), np.array(wanted))


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


def stories(folder: Path, model: Any) -> Array:
    """(T, V) log-probs of real text of the stories recipe."""
    tokenizer = StudentTokenizer.load(folder, format="text")
    anchors = lines_of(ROOT / "recipes" / "stories" / "anchors.jsonl", 8)
    rows = [tokenizer.encode_text(a["prompt"] + a["answer"])[:96] for a in anchors]
    model.set_dtype(mx.float32)
    return normalised(np.concatenate([np.array(model(mx.array([row]))[0]) for row in rows]))


def in_8_bits(folder: Path, scales: Literal["float32", "rounded after", "ours"]) -> Any:
    model, config = open_model(folder)
    if scales == "ours":
        store(model, config, Variant(8, 64), "bfloat16")
        return model
    quantize_model(model, config, 64, 8)
    for layer in model.modules() if scales == "rounded after" else ():
        if hasattr(layer, "scales"):
            layer.scales, layer.biases = layer.scales.astype(mx.bfloat16), layer.biases.astype(mx.bfloat16)
    return model


def test_on_real_weights(shared: Path) -> None:
    """A pretrained model in 8 bits: KL 4.5e-4 with float32 scales, 4.7e-4 with ours, 1.3e-3 if rounded after."""
    folder = shared / "models" / "stories260K"
    whole = stories(folder, open_model(folder)[0])
    exact, after, ours = (
        mean_kl(whole, stories(folder, in_8_bits(folder, scales))) for scales in ("float32", "rounded after", "ours")
    )
    assert 0 < ours < 1.3 * exact
    assert after > 2 * exact
