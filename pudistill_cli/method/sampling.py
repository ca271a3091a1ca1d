"""How a token is drawn: a counter-based uniform number and the inverse CDF in float64.

The NumPy functions are the reference that every backend's sampler is tested against.
"""

from __future__ import annotations

import hashlib

import numpy as np
from numpy.typing import NDArray


def uniforms(seed: int, round: int, key: str, k: int, n: int) -> NDArray[np.float64]:
    """The uniform numbers of candidate `k` of the prompt with content hash `key`.

    Returns (n,) float64 in [0, 1); entry t belongs to position t, so the first n of a longer call are the
    same. Philox 4x64 (Salmon et al. 2011), keyed by blake2b of the four names; its raw words are stable
    across NumPy versions, unlike `Generator`'s methods.
    """
    name = f"{seed}\0{round}\0{key}\0{k}".encode()
    philox = np.random.Philox(key=int.from_bytes(hashlib.blake2b(name, digest_size=16).digest(), "little"))
    words = np.asarray(philox.random_raw(n), dtype=np.uint64)
    return (words >> np.uint64(11)).astype(np.float64) * 2.0**-53


def draw(
    logits: NDArray[np.float32], u: NDArray[np.float64], temperature: float, top_p: float, top_k: int
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Draw one token a row by inverse CDF, summed in float64 in token-id order.

    `logits` is (B, V), `u` is (B,). Temperature comes first, then top-k (0 is off), then top-p (1 is off).
    Temperature 0 is greedy, the lowest id winning a tie. Returns tokens (B,) and log-probs (B,): of the
    distribution drawn from, or the model's own when greedy.
    """
    rows = np.arange(len(logits))
    exact = logits.astype(np.float64)
    if temperature == 0:
        tokens = np.argmax(exact, axis=-1)
        return tokens, _log_softmax(exact)[rows, tokens].astype(np.float32)
    kept = _top_p(_top_k(exact / temperature, top_k), top_p)
    weights = np.exp(kept - kept.max(axis=-1, keepdims=True))  # (B, V)
    cdf = np.cumsum(weights, axis=-1)
    total = cdf[:, -1:]
    tokens = (cdf <= u[:, None] * total).sum(axis=-1)
    # u * total can round up to total: the last token of positive weight is then meant.
    tokens = np.minimum(tokens, np.argmax(cdf >= total, axis=-1))
    return tokens, np.log(weights[rows, tokens] / total[:, 0]).astype(np.float32)


def _log_softmax(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    shifted = logits - logits.max(axis=-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))


def _top_k(logits: NDArray[np.float64], k: int) -> NDArray[np.float64]:
    """Keep the k largest logits and whatever ties with the last of them."""
    if k <= 0 or k >= logits.shape[-1]:
        return logits
    least = np.partition(logits, -k, axis=-1)[:, [-k]]
    return np.where(logits >= least, logits, -np.inf)


def _top_p(logits: NDArray[np.float64], p: float) -> NDArray[np.float64]:
    """Keep the fewest likeliest tokens whose mass reaches p, ties by token id (Holtzman et al. 2020)."""
    if p >= 1:
        return logits
    order = np.argsort(-logits, axis=-1, kind="stable")
    probabilities = np.take_along_axis(np.exp(_log_softmax(logits)), order, axis=-1)
    before = np.cumsum(probabilities, axis=-1) - probabilities  # mass of the likelier tokens
    keep = np.zeros(logits.shape, dtype=bool)
    np.put_along_axis(keep, order, before < p, axis=-1)
    return np.where(keep, logits, -np.inf)
