"""Drawing tokens from llama.cpp's logits: `pudistill_cli.method.sampling.draw`, its sum in two levels."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from pudistill_cli.contract import Floats, Sampling
from pudistill_cli.method import sampling as reference
from pudistill_llamacpp.log_softmax import CHUNK_ELEMENTS, logprobs_of

Doubles = NDArray[np.float64]

BLOCK = 256
"""Tokens summed before the cumulative sum: it then runs over V / 256 numbers and once over 256."""


def draw(logits: Floats, u: Doubles, sampling: Sampling) -> tuple[NDArray[np.int64], Floats]:
    """(B, V) logits and (B,) uniform numbers -> (B,) ids and (B,) log-probs.

    Inverse CDF, summed in float64 in token-id order, as the reference does it; only the exponential is a float32 one,
    which moves the ends of a token's interval by 1e-7 of its length. Truncation is the reference's own.
    """
    if sampling.temperature == 0:
        tokens = np.argmax(logits, axis=-1)
        return tokens, logprobs_of(logits, tokens)
    if sampling.top_p < 1 or sampling.top_k > 0:
        return reference.draw(logits, u, sampling.temperature, sampling.top_p, sampling.top_k)
    rows = max(1, CHUNK_ELEMENTS // logits.shape[-1])
    pieces = [slice(i, i + rows) for i in range(0, len(logits), rows)]
    drawn = [_draw(logits[p], u[p], np.float32(sampling.temperature)) for p in pieces]
    tokens, logprobs = zip(*drawn, strict=True)
    return np.concatenate(tokens), np.concatenate(logprobs)


def _draw(logits: Floats, u: Doubles, temperature: np.float32) -> tuple[NDArray[np.int64], Floats]:
    rows = np.arange(len(logits))
    weights = logits - logits.max(axis=-1, keepdims=True)  # (B, V)
    if temperature != 1:
        weights /= temperature
    np.exp(weights, out=weights)
    starts = np.arange(0, weights.shape[-1], BLOCK)
    outer = np.add.reduceat(weights, starts, axis=-1, dtype=np.float64).cumsum(-1)  # (B, V / 256)
    target = u * outer[:, -1]
    block = _first_above(outer, target)
    before = np.where(block > 0, outer[rows, block - 1], 0.0)
    columns = block[:, None] * BLOCK + np.arange(BLOCK)  # (B, 256); the last block may be a short one
    last = weights.shape[-1] - 1
    found = np.where(columns <= last, weights[rows[:, None], np.minimum(columns, last)], 0)
    inner = found.cumsum(-1, dtype=np.float64)
    tokens = block * BLOCK + _first_above(inner, target - before)
    return tokens, np.log(weights[rows, tokens] / outer[:, -1]).astype(np.float32)


def _first_above(cdf: Doubles, target: Doubles) -> NDArray[np.int64]:
    """Index of the first entry above the target, but none behind the last of positive weight."""
    last = np.argmax(cdf >= cdf[:, -1:], axis=-1)
    return np.minimum((cdf <= target[:, None]).sum(-1), last)
