"""Drawing tokens from llama.cpp's logits: `pudistill_cli.method.sampling.draw`, its sum in two levels."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from pudistill_cli.method import sampling as reference
from pudistill_cli.types import Floats, Sampling
from pudistill_llamacpp.log_softmax import CHUNK_ELEMENTS, logprobs_of, logsumexp

Doubles = NDArray[np.float64]

BLOCK = 256
"""Tokens summed before the cumulative sum: it then runs over V / 256 numbers and once over 256."""
LIKELY = 1024
"""Tokens that are sorted for top-p; where they do not hold the mass, all are."""


def draw(logits: Floats, u: Doubles, sampling: Sampling) -> tuple[NDArray[np.int64], Floats]:
    """(B, V) logits and (B,) uniform numbers -> (B,) ids and (B,) log-probs.

    Inverse CDF, summed in float64 in token-id order, as the reference does it; only exponentials are float32 ones,
    which moves the ends of a token's interval by 1e-7 of its length.
    """
    if sampling.temperature == 0:
        tokens = np.argmax(logits, axis=-1)
        return tokens, logprobs_of(logits, tokens)
    rows = max(1, CHUNK_ELEMENTS // logits.shape[-1])
    pieces = [slice(i, i + rows) for i in range(0, len(logits), rows)]
    drawn = [_draw(logits[p], u[p], sampling) for p in pieces]
    tokens, logprobs = zip(*drawn, strict=True)
    return np.concatenate(tokens), np.concatenate(logprobs)


def _draw(logits: Floats, u: Doubles, sampling: Sampling) -> tuple[NDArray[np.int64], Floats]:
    if sampling.temperature != 1:
        logits = logits / np.float32(sampling.temperature)
    logits = _top_k(logits, sampling.top_k)
    if sampling.top_p < 1:
        likely = _likeliest(logits, sampling.top_p)
        if likely is None:
            return reference.draw(logits, u, 1.0, sampling.top_p, 0)
        logits = likely
    return _inverse_cdf(logits, u)


def _inverse_cdf(logits: Floats, u: Doubles) -> tuple[NDArray[np.int64], Floats]:
    rows = np.arange(len(logits))
    weights = logits - logits.max(axis=-1, keepdims=True)  # (B, V)
    np.exp(weights, out=weights)
    starts = np.arange(0, weights.shape[-1], BLOCK)
    outer = np.add.reduceat(weights, starts, axis=-1, dtype=np.float64).cumsum(-1)  # (B, V / 256)
    target = u * outer[:, -1]
    block = _first_above(outer, target)
    before = np.where(block > 0, outer[rows, block - 1], 0.0)
    columns = block[:, None] * BLOCK + np.arange(BLOCK)  # (B, 256); the last block may be a short one
    last = weights.shape[-1] - 1
    inside = np.where(columns <= last, weights[rows[:, None], np.minimum(columns, last)], 0)
    inner = inside.cumsum(-1, dtype=np.float64)
    tokens = block * BLOCK + _first_above(inner, target - before)
    return tokens, np.log(weights[rows, tokens] / outer[:, -1]).astype(np.float32)


def _first_above(cdf: Doubles, target: Doubles) -> NDArray[np.int64]:
    """Index of the first entry above the target, but none behind the last of positive weight."""
    last = np.argmax(cdf >= cdf[:, -1:], axis=-1)
    return np.minimum((cdf <= target[:, None]).sum(-1), last)


def _top_k(logits: Floats, k: int) -> Floats:
    """Keep the k largest logits and whatever ties with the last of them."""
    if k <= 0 or k >= logits.shape[-1]:
        return logits
    least = np.partition(logits, -k, axis=-1)[:, [-k]]
    return np.where(logits >= least, logits, -np.inf)


def _likeliest(logits: Floats, p: float) -> Floats | None:
    """Keep the fewest likeliest tokens whose mass reaches p, ties by token id; None if LIKELY tokens do not."""
    if logits.shape[-1] <= LIKELY:
        return None
    # Ids in order, so that the stable sort leaves ties in order; of those that tie with the last one some are missing.
    ids = np.sort(np.argpartition(logits, -LIKELY, axis=-1)[:, -LIKELY:], axis=-1)
    values = np.take_along_axis(logits, ids, -1)
    order = np.argsort(-values, axis=-1, kind="stable")
    ids, values = np.take_along_axis(ids, order, -1), np.take_along_axis(values, order, -1)
    mass = np.exp(values - logsumexp(logits)[:, None], dtype=np.float64)
    before = mass.cumsum(-1) - mass  # of the likelier tokens
    cut = (before >= p) & (values > values[:, -1:])
    if not cut.any(-1).all():
        return None
    kept = np.full(logits.shape, -np.inf, np.float32)
    np.put_along_axis(kept, ids, np.where(before < p, values, -np.inf), -1)
    return kept
