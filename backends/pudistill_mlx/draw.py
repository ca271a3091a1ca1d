"""Drawing tokens on the device: `pudistill_cli.method.sampling.draw`, its float64 sums on the host.

Metal has no float64. What crosses is a sum a block and the numbers of one block, never all logits.
"""

from __future__ import annotations

import mlx.core as mx
import numpy as np
from numpy.typing import NDArray

from pudistill_cli.types import Floats, Sampling
from pudistill_mlx.log_softmax import in_blocks, logprobs_of

Doubles = NDArray[np.float64]
Ids = NDArray[np.int64]

BLOCK = 32
"""Tokens summed in float32 on the device: few enough that the sum is right to 1e-7."""
LIKELY = 1024
"""Tokens that are sorted for top-p; where they do not hold the mass, all are."""


def draw(logits: mx.array, u: Doubles, sampling: Sampling) -> tuple[Ids, Floats]:
    """(B, V) float32 logits and (B,) uniform numbers -> (B,) ids and (B,) log-probs.

    Inverse CDF, summed in token-id order, after temperature, top-k and top-p in this order. Temperature 0 is greedy,
    the lowest id winning a tie; the log-prob is then the model's own.
    """
    if sampling.temperature == 0:
        best = mx.argmax(logits, axis=-1)
        return np.array(best).astype(np.int64), np.array(logprobs_of(logits, best))
    if sampling.temperature != 1:
        logits = logits / sampling.temperature
    return _inverse_cdf(_top_p(_top_k(logits, sampling.top_k), sampling.top_p), u)


def _inverse_cdf(logits: mx.array, u: Doubles) -> tuple[Ids, Floats]:
    blocks = _weights(logits)  # (B, V / 32, 32)

    outer = np.cumsum(np.array(blocks.sum(axis=-1)), axis=-1, dtype=np.float64)  # (B, V / 32)
    target = u * outer[:, -1]
    block = _first_above(outer, target)
    every = np.arange(len(logits))
    before = np.where(block > 0, outer[every, block - 1], 0.0)
    inside = np.array(blocks[mx.arange(len(logits)), mx.array(block)])  # (B, 32)
    token = _first_above(np.cumsum(inside, axis=-1, dtype=np.float64), target - before)
    return block * BLOCK + token, np.log(inside[every, token] / outer[:, -1]).astype(np.float32)


def _weights(logits: mx.array) -> mx.array:
    """(B, V) -> (B, V / 32, 32): exponentials, the largest 1."""
    return in_blocks(mx.exp(logits - logits.max(axis=-1, keepdims=True)), BLOCK)


def _first_above(cdf: Doubles, target: Doubles) -> Ids:
    """Index of the first entry above the target, but none behind the last of positive weight."""
    last = np.argmax(cdf >= cdf[:, -1:], axis=-1)
    return np.minimum((cdf <= target[:, None]).sum(-1), last)


def _top_k(logits: mx.array, k: int) -> mx.array:
    """Keep the k largest logits and whatever ties with the last of them."""
    if k <= 0 or k >= logits.shape[-1]:
        return logits
    least = mx.topk(logits, k, axis=-1).min(axis=-1, keepdims=True)
    return mx.where(logits >= least, logits, -mx.inf)


def _top_p(logits: mx.array, p: float) -> mx.array:
    """Keep the fewest likeliest tokens whose mass reaches p, ties by token id."""
    if p >= 1:
        return logits
    few = min(LIKELY, logits.shape[-1])
    kept = _last_kept(logits, p, few)
    if kept is None:
        kept = _last_kept(logits, p, logits.shape[-1])
    assert kept is not None
    value, last = (mx.array(x)[:, None] for x in kept)
    ids = mx.arange(logits.shape[-1])[None]
    return mx.where((logits > value) | ((logits == value) & (ids <= last)), logits, -mx.inf)


def _last_kept(logits: mx.array, p: float, count: int) -> tuple[Floats, NDArray[np.int32]] | None:
    """Logit and id of the least likely token that top-p keeps; None if the `count` likeliest do not tell."""
    vocabulary = logits.shape[-1]
    whole = count == vocabulary
    ids = np.arange(vocabulary)[None] if whole else np.array(mx.argpartition(-logits, count, axis=-1)[:, :count])
    ids = np.sort(np.broadcast_to(ids, (len(logits), count)), axis=-1)  # a stable sort then leaves ties in order
    values = np.array(mx.take_along_axis(logits, mx.array(ids), axis=-1))
    order = np.argsort(-values, axis=-1, kind="stable")
    values, ids = np.take_along_axis(values, order, -1), np.take_along_axis(ids, order, -1)
    mass = np.exp(values.astype(np.float64) - values[:, :1])
    mass /= np.array(_weights(logits).sum(axis=-1)).sum(axis=-1, dtype=np.float64)[:, None]
    kept = np.cumsum(mass, axis=-1) - mass < p  # by the mass of the likelier tokens
    last = kept.sum(-1) - 1
    every = np.arange(len(logits))
    end = values[every, last]
    if not whole and (end <= values[:, -1]).any():  # of those that tie with the last one some may be missing
        return None
    return end, ids[every, last].astype(np.int32)
