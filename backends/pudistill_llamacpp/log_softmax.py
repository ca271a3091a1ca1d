"""Log-probs from logits in float32, few rows at a time: a chunk stays in the processor's cache."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from pudistill_cli.types import Floats

CHUNK_ELEMENTS = 1 << 18
"""Probabilities at once: 1 MiB, and few steps of Python where the vocabulary is small."""


def logprobs_of(logits: Floats, tokens: NDArray[np.int64]) -> Floats:
    """(R,) log-probs of one token a row, from (R, V) logits."""
    return logits[np.arange(len(tokens)), tokens] - logsumexp(logits)


def logsumexp(logits: Floats) -> Floats:
    """(R,) of (R, V), summed in float64."""
    rows = max(1, CHUNK_ELEMENTS // logits.shape[-1])
    return np.concatenate([_logsumexp(logits[i : i + rows]) for i in range(0, len(logits), rows)])


def _logsumexp(logits: Floats) -> Floats:
    most = logits.max(axis=-1)
    weights = np.exp(logits - most[:, None])
    return most + np.log(weights.sum(axis=-1, dtype=np.float64)).astype(np.float32)
