"""The rows that are being decoded together: one step draws one token for each."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields, replace

import mlx.core as mx
import numpy as np
from numpy.typing import NDArray

from pudistill_cli.backend_api.continuous_batching import Chosen, FreshRows, fresh_rows
from pudistill_cli.types import Adapter, Candidate, Sampling
from pudistill_mlx.cache import RowCache
from pudistill_mlx.draw import draw
from pudistill_mlx.lora import LowRanks
from pudistill_mlx.model import Model
from pudistill_mlx.padding import padded_left

LEAVE_SHARE = 8
"""Finished rows leave when they are 1 / LEAVE_SHARE of all: leaving copies the cache of those that stay."""

Integers = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Rows:
    """What is known of each row; kept on the host, filled in place."""

    prompt: Integers  # (B,) index into the request
    number: Integers  # (B,) which of the K candidates
    limit: Integers  # (B,) most tokens to draw
    uniform: NDArray[np.float64]  # (B, N)
    tokens: Integers  # (B, N + 1); what lies behind `written` means nothing
    logprobs: NDArray[np.float32]  # (B, N + 1)
    written: Integers  # (B,) tokens drawn so far
    done: NDArray[np.bool_]  # (B,)

    def select(self, index: Integers) -> Rows:
        """The rows at `index`."""
        return Rows(**{f.name: getattr(self, f.name)[index] for f in fields(self)})

    def joined(self, other: Rows) -> Rows:
        """The other's rows below these."""
        return Rows(**{f.name: np.concatenate([getattr(self, f.name), getattr(other, f.name)]) for f in fields(self)})


class Decoding:
    """Rows, their cache, and how to go on. Calls of other adapters may come between two steps."""

    def __init__(self, model: Model, sampling: Sampling, adapter: LowRanks, rows: Rows, cache: RowCache) -> None:
        self._model, self._sampling, self._adapter = model, sampling, adapter
        self._rows, self._cache = rows, cache

    @property
    def rows(self) -> int:
        """How many there are."""
        return len(self._rows.done)

    def step(self) -> None:
        """Feed every row's last token and draw the next one."""
        rows = self._rows
        last = rows.tokens[np.arange(self.rows), rows.written - 1]
        hidden = self._model.hidden(mx.array(last.astype(np.int32))[:, None], self._adapter, self._cache)
        self.draw(hidden[:, -1])

    def draw(self, hidden: mx.array) -> None:
        """Append a token to every row: `hidden` (B, D) are the states that predict it."""
        rows, head, every = self._rows, self._model.head, np.arange(self.rows)
        u = rows.uniform[every, np.minimum(rows.written, rows.uniform.shape[1] - 1)]
        pieces = [slice(i, i + head.chunk) for i in range(0, self.rows, head.chunk)]
        drawn = [draw(head.logits(hidden[p]), u[p], self._sampling) for p in pieces]
        tokens, logprobs = (np.concatenate(parts) for parts in zip(*drawn, strict=True))
        rows.tokens[every, rows.written] = tokens
        rows.logprobs[every, rows.written] = logprobs
        written = rows.written + ~rows.done
        stopped = np.isin(tokens, self._model.spec.stop_tokens)
        self._rows = replace(rows, written=written, done=rows.done | stopped | (written >= rows.limit))

    def take_finished(self) -> list[tuple[int, int, Candidate]]:
        """(prompt, number, candidate) of the rows that leave now; all finished ones, but not at every step."""
        rows = self._rows
        finished = int(rows.done.sum())
        if not finished or finished * LEAVE_SHARE < self.rows:
            return []
        staying = np.flatnonzero(~rows.done)
        self._rows = rows.select(staying)
        if len(staying):
            drop = min(self._cache.padding[i] for i in staying)
            self._cache = self._cache.rows(staying.tolist(), drop, grows=True)
            # Buffers of the old shape fit nothing any more, and MLX would keep them for reuse.
            mx.clear_cache()
        return list(self._candidates(rows.select(np.flatnonzero(rows.done))))

    def joined(self, other: Decoding) -> Decoding:
        """Both, decoded together from now on."""
        cache = self._cache.joined(other._cache)
        return Decoding(self._model, self._sampling, self._adapter, self._rows.joined(other._rows), cache)

    def _candidates(self, rows: Rows) -> Iterator[tuple[int, int, Candidate]]:
        for row, length in enumerate(rows.written.tolist()):
            drawn = tuple(rows.tokens[row, :length].tolist())
            finish = "stop" if drawn[-1] in self._model.spec.stop_tokens else "length"
            logprobs = rows.logprobs[row, :length].copy()
            yield int(rows.prompt[row]), int(rows.number[row]), Candidate(drawn, logprobs, finish)


def start(model: Model, prompts: Chosen, k: int, sampling: Sampling, adapter: Adapter | None) -> Decoding:
    """Prefill prompts once each, branch each into K rows and draw their first tokens."""
    weights = model.adapter(adapter)
    batch = padded_left([prompt.tokens for _, prompt in prompts])
    cache = model.empty_cache(batch.padding)
    last = model.hidden(batch.ids, weights, cache)[:, -1]  # (P, D)
    branch = [i for i in range(len(prompts)) for _ in range(k)]
    rows = _new_rows(fresh_rows(prompts, k, sampling, model.spec.context), sampling.max_new_tokens)
    decoding = Decoding(model, sampling, weights, rows, cache.rows(branch, grows=True))
    decoding.draw(last[mx.array(branch)])
    return decoding


def _new_rows(fresh: FreshRows, most: int) -> Rows:
    count = len(fresh.prompt)
    return Rows(
        prompt=fresh.prompt,
        number=fresh.number,
        limit=fresh.limit,
        uniform=fresh.uniform,
        tokens=np.zeros((count, most + 1), np.int64),
        logprobs=np.zeros((count, most + 1), np.float32),
        written=np.zeros(count, np.int64),
        done=np.zeros(count, np.bool_),
    )
