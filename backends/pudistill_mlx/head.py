"""From hidden states to logits and log-probs, in chunks: (batch, length, vocabulary) never exists in float32."""

from __future__ import annotations

from collections.abc import Callable
from copy import copy
from functools import partial
from typing import Any, TypeAlias

import mlx.core as mx

from pudistill_mlx.log_softmax import BLOCK, in_blocks, log_softmax, logprobs_of

CHUNK_ELEMENTS = 1 << 24
"""Logits held at once: 64 MiB in float32."""
Divergence: TypeAlias = Callable[[mx.array, mx.array], mx.array]
"""Of the policy's (N, V) log-probs and the judge's: (N,)."""


class _Given:
    """Stands for the decoder: returns the hidden states that it was given; all else is the decoder's."""

    def __init__(self, decoder: Any) -> None:
        self._decoder = decoder
        self.hidden: mx.array | None = None

    def __call__(self, *args: object, **kwargs: object) -> mx.array:
        assert self.hidden is not None
        return self.hidden

    def __getattr__(self, name: str) -> Any:
        return getattr(self._decoder, name)


class Head:
    """What an architecture does behind its decoder, by its own code: head or tied embedding, scale, soft cap."""

    def __init__(self, causal: Any, vocabulary: int) -> None:
        self.vocabulary = vocabulary
        self._given = _Given(causal.model)
        self._behind = copy(causal)
        self._behind.model = self._given

    def logits(self, hidden: mx.array) -> mx.array:
        """(N, D) hidden states -> (N, V) logits in float32."""
        self._given.hidden = hidden[None]
        try:
            return self._behind(mx.zeros((1, len(hidden)), mx.int32))[0].astype(mx.float32)
        finally:
            self._given.hidden = None

    def logprobs(self, hidden: mx.array, targets: mx.array) -> mx.array:
        """(N, D) hidden states, (N,) ids -> (N,) float32 log-probs; in chunks that backward computes again."""
        return _in_chunks(self._gathered, self.chunk, hidden, targets=targets)

    def distilled(self, hidden: mx.array, targets: mx.array, judged: mx.array) -> mx.array:
        """(2, N): log-probs as `logprobs`, and KL(policy || judge) of the next token over the whole vocabulary.

        `judged` (N, D) are the judge's hidden states at the same tokens. Two distributions are held at once.
        """
        return self._compared(_kl, hidden, targets, judged)

    def softened(self, hidden: mx.array, targets: mx.array, judged: mx.array) -> mx.array:
        """As `distilled`, with KL(judge || policy)."""
        return self._compared(_reverse_kl, hidden, targets, judged)

    @property
    def chunk(self) -> int:
        """Hidden states that are turned into logits together."""
        return max(1, CHUNK_ELEMENTS // self.vocabulary)

    def _gathered(self, hidden: mx.array, targets: mx.array) -> mx.array:
        return logprobs_of(self.logits(hidden), targets)

    def _compared(self, divergence: Divergence, hidden: mx.array, targets: mx.array, judged: mx.array) -> mx.array:
        size = max(1, self.chunk // 2)
        return _in_chunks(partial(self._both, divergence), size, hidden, targets=targets, judged=judged)

    def _both(self, divergence: Divergence, hidden: mx.array, targets: mx.array, judged: mx.array) -> mx.array:
        policy, judge = log_softmax(self.logits(hidden)), log_softmax(self.logits(judged))  # (N, V)
        return mx.stack([mx.take_along_axis(policy, targets[:, None], axis=-1)[:, 0], divergence(policy, judge)])


def _kl(p: mx.array, q: mx.array) -> mx.array:
    """KL(p || q) of (N, V) log-probs: (N,)."""
    return in_blocks(mx.exp(p) * (p - q), BLOCK).sum(axis=-1).sum(axis=-1)


def _reverse_kl(p: mx.array, q: mx.array) -> mx.array:
    """KL(q || p)."""
    return _kl(q, p)


def _in_chunks(function: Callable[..., mx.array], size: int, hidden: mx.array, **constants: mx.array) -> mx.array:
    """`function` on `size` rows at a time, joined on the last axis; backward computes chunks again."""
    if len(hidden) <= size:
        return function(hidden, **constants)
    starts = range(0, len(hidden), size)
    # Constants are bound, not passed: a checkpointed function is differentiated in each of its arguments.
    bound = [partial(function, **{name: array[i : i + size] for name, array in constants.items()}) for i in starts]
    chunks = [mx.checkpoint(chunk)(hidden[i : i + size]) for i, chunk in zip(starts, bound, strict=True)]
    return mx.concatenate(chunks, axis=-1)
