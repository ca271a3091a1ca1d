"""Log-softmax in float32 that stays right for large vocabularies.

MLX's own sum runs over a row on a CPU one after another: with 262,144 tokens its logsumexp is wrong by up to 5e-4,
summed in blocks it is by 2e-6.
"""

from __future__ import annotations

import mlx.core as mx

BLOCK = 256
"""Tokens summed before the sums are: then no sum runs over more than about a thousand numbers."""


def logprobs_of(logits: mx.array, tokens: mx.array) -> mx.array:
    """(N, V) float32 logits, (N,) ids -> (N,) log-probs of the ids."""
    return mx.take_along_axis(logits, tokens[:, None], axis=-1)[:, 0] - logsumexp(logits)


def log_softmax(logits: mx.array) -> mx.array:
    """(N, V) float32 logits -> (N, V) log-probs."""
    return logits - logsumexp(logits)[:, None]


def logsumexp(logits: mx.array) -> mx.array:
    """(N, V) float32 -> (N,); differentiable."""
    largest = mx.stop_gradient(logits.max(axis=-1, keepdims=True))
    sums = in_blocks(mx.exp(logits - largest), BLOCK).sum(axis=-1)
    return largest[:, 0] + mx.log(sums.sum(axis=-1))


def in_blocks(values: mx.array, size: int) -> mx.array:
    """(N, V) -> (N, V / size, size); zeros fill the last block up."""
    padded = mx.pad(values, [(0, 0), (0, -values.shape[-1] % size)])
    return padded.reshape(len(values), -1, size)
