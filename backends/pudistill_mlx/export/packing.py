"""MLX's affine quantisation with levels chosen for the scales as they are stored, not for those before rounding.

w ~ scale * q + bias, q in 0 .. 2^bits - 1 (mlx.core.quantize, whose q belongs to float32 scales). Where these are then
rounded to bfloat16, 8 bits lose half as much again (tests/mlx/export/test_packing.py); chosen anew, next to nothing.
"""

from __future__ import annotations

import mlx.core as mx

_WORD = 32
"""Bits of a word; so many levels fill a whole number of words, whatever their bits."""

_BLOCK = 1 << 22
"""Weights that are worked on at once: 16 MiB in float32, a few times."""


def requantised(weight: mx.array, scales: mx.array, biases: mx.array, bits: int) -> mx.array:
    """(rows, columns) float32 weights -> (rows, columns * bits / 32) uint32, in blocks of rows."""
    step = max(1, _BLOCK // weight[0].size)
    blocks = [slice(i, i + step) for i in range(0, len(weight), step)]
    return mx.concatenate([packed(levels(weight[b], scales[b], biases[b], bits), bits) for b in blocks])


def levels(weight: mx.array, scales: mx.array, biases: mx.array, bits: int) -> mx.array:
    """(..., columns) float32 weights -> uint8 levels; scales and biases are (..., groups), of any float type."""
    groups = weight.reshape(*scales.shape, -1)
    scale, bias = (x.astype(mx.float32)[..., None] for x in (scales, biases))
    nearest = mx.clip(mx.round((groups - bias) / scale), 0, 2**bits - 1)
    return nearest.astype(mx.uint8).reshape(weight.shape)


def packed(chosen: mx.array, bits: int) -> mx.array:
    """(..., columns) levels -> (..., columns * bits / 32) uint32: one stream of bits, the lowest first."""
    rows = chosen.reshape(*chosen.shape[:-1], -1, _WORD)
    words = [mx.zeros(rows.shape[:-1], mx.uint32) for _ in range(bits)]
    for i in range(_WORD):
        level = rows[..., i].astype(mx.uint32)
        word, shift = divmod(i * bits, _WORD)
        words[word] = words[word] | (level << shift)
        if shift + bits > _WORD:
            words[word + 1] = words[word + 1] | (level >> (_WORD - shift))
    return mx.stack(words, axis=-1).reshape(*chosen.shape[:-1], -1)
