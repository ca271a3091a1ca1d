"""The sequences that are decoded together: one step draws one token for each."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from pudistill_cli.backend_api.continuous_batching import fresh_rows
from pudistill_cli.types import Candidate, Floats, PromptTokens, Sampling
from pudistill_llamacpp.draw import draw
from pudistill_llamacpp.native.context import Context
from pudistill_llamacpp.prefix import prefill

ALIGNMENT = 4
"""Batches are filled up to a multiple of this with tokens that nobody reads.

llama.cpp's matrix products take other kernels, which round differently, for a single row and for what is left over
when rows are taken four at a time. In full batches a row's result does not depend on how many others there are.
"""


class Decoding:
    """Sequence i of the context is row i of the arrays; the first `alive` of them are being decoded.

    They have to be the first ones: llama.cpp computes only sequences of consecutive numbers in one pass.
    """

    def __init__(
        self,
        context: Context,
        sampling: Sampling,
        k: int,
        stop_tokens: Sequence[int],
        longest: int,
    ) -> None:
        self._context, self._sampling, self._k = context, sampling, k
        self._stops, self._stop = frozenset(stop_tokens), np.array(stop_tokens)
        self._longest = longest
        rows, most = context.settings.n_seq_max, sampling.max_new_tokens
        self.alive = 0
        self._prompt = np.zeros(rows, np.int64)
        self._number = np.zeros(rows, np.int64)  # which of the K candidates
        self._start = np.zeros(rows, np.int64)  # tokens of the prompt
        self._limit = np.zeros(rows, np.int64)  # most tokens to draw
        self._written = np.zeros(rows, np.int64)
        self._done = np.zeros(rows, np.bool_)
        self._uniform = np.zeros((rows, most))
        self._tokens = np.zeros((rows, most), np.int64)
        self._logprobs = np.zeros((rows, most), np.float32)

    @property
    def room(self) -> int:
        """Sequences that could join."""
        return self._context.settings.n_seq_max - self.alive

    def admit(self, index: int, prompt: PromptTokens) -> None:
        """Prefill a prompt, alone so that nothing else can change its result, and draw K first tokens from it."""
        first, k = self.alive, self._k
        where = np.arange(first, first + k)
        logits = prefill(self._context, first, prompt.tokens)
        self._context.copy(first, where[1:].tolist())
        rows = fresh_rows([(index, prompt)], k, self._sampling, self._longest)
        self._prompt[where], self._number[where] = rows.prompt, rows.number
        self._limit[where], self._uniform[where] = rows.limit, rows.uniform
        self._start[where] = len(prompt.tokens)
        self._written[where], self._done[where] = 0, False
        self.alive += k
        self._append(where, np.broadcast_to(logits, (k, logits.shape[-1])))

    def step(self) -> None:
        """Feed every sequence's last token and draw the next one."""
        n = self.alive
        where, batch = np.arange(n), n + -n % ALIGNMENT
        tokens, positions = np.zeros((2, batch), np.int64)
        tokens[:n] = self._tokens[where, self._written[:n] - 1]
        positions[:n] = self._start[:n] + self._written[:n] - 1
        for filler in range(n, batch):
            self._context.remove(filler)
        self._append(where, self._context.decode(tokens, positions, np.arange(batch))[:n])

    def take_finished(self) -> list[tuple[int, int, Candidate]]:
        """(prompt, number, candidate) of the sequences that have ended, which leave."""
        done = np.flatnonzero(self._done[: self.alive])
        leaving = [(int(self._prompt[i]), int(self._number[i]), self._candidate(i)) for i in done]
        self._close_gaps(done)
        return leaving

    def _append(self, where: NDArray[np.int64], logits: Floats) -> None:
        at = self._written[where]
        tokens, logprobs = draw(logits, self._uniform[where, at], self._sampling)
        self._tokens[where, at], self._logprobs[where, at] = tokens, logprobs
        self._written[where] = at + 1
        self._done[where] = (tokens[:, None] == self._stop).any(-1) | (at + 1 >= self._limit[where])

    def _candidate(self, row: np.int64) -> Candidate:
        length = int(self._written[row])
        tokens = tuple(self._tokens[row, :length].tolist())
        return Candidate(tokens, self._logprobs[row, :length].copy(), "stop" if tokens[-1] in self._stops else "length")

    def _close_gaps(self, gone: NDArray[np.int64]) -> None:
        """Move the last sequences to where others have left."""
        stay = self.alive - len(gone)
        moving = np.setdiff1d(np.arange(stay, self.alive), gone)
        for gap, row in zip(gone[gone < stay].tolist(), moving.tolist(), strict=True):
            self._context.copy(row, [gap])
            for values in (
                self._prompt, self._number, self._start, self._limit, self._written, self._done, self._uniform,
                self._tokens, self._logprobs,
            ):  # fmt: skip
                values[gap] = values[row]
        self.alive = stay
