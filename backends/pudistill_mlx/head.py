"""From hidden states to logits and log-probs, in chunks: (batch, length, vocabulary) never exists in float32."""

from __future__ import annotations

from copy import copy
from functools import partial
from typing import Any

import mlx.core as mx

from pudistill_mlx.log_softmax import logprobs_of

CHUNK_ELEMENTS = 1 << 24
"""Logits held at once: 64 MiB in float32."""


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
        size = self.chunk
        if len(targets) <= size:
            return self._gathered(hidden, targets)
        # Ids are bound, not passed: a checkpointed function is differentiated in each of its arguments.
        starts = range(0, len(targets), size)
        chunks = [mx.checkpoint(partial(self._gathered, targets=targets[i : i + size])) for i in starts]
        return mx.concatenate([chunk(hidden[i : i + size]) for i, chunk in zip(starts, chunks, strict=True)])

    @property
    def chunk(self) -> int:
        """Hidden states that are turned into logits together."""
        return max(1, CHUNK_ELEMENTS // self.vocabulary)

    def _gathered(self, hidden: mx.array, targets: mx.array) -> mx.array:
        return logprobs_of(self.logits(hidden), targets)
