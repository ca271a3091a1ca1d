"""Many continuations behind few prefixes: a prefix is computed once, its continuations are sequences of their own."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np
from numpy.typing import NDArray

from pudistill_cli.types import Floats, Tokens
from pudistill_llamacpp.native.context import Context
from pudistill_llamacpp.prefix import prefill

Indices = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Branch:
    """Tokens to read behind a prefix."""

    prefix: Tokens
    tokens: Tokens


class Branches:
    """Reads branches in one context. A prefix that was computed last, alone, need not be computed again."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._resident: tuple[Tokens, Floats] | None = None

    def read(self, branches: Sequence[Branch], *, every: bool) -> Iterator[tuple[Indices, Indices, Floats]]:
        """Yield (branch, read, logits): (R,) numbers of branches, (R,) how many of their tokens had been read, (R, V).

        With `every`, logits come for 0, 1, ... all of a branch's tokens; without, for all of them only. The logits are
        a view that the next step overwrites. Branches must be at most the context's sequences, longest first: then
        those that go on are always the first ones, and llama.cpp computes them together.
        """
        lengths = np.array([len(branch.tokens) for branch in branches])
        for logits, members in self._prefixes(branches):
            wanted = members if every else members[lengths[members] == 0]
            if len(wanted):
                yield wanted, np.zeros_like(wanted), np.broadcast_to(logits, (len(wanted), logits.shape[-1]))
        starts = np.array([len(branch.prefix) for branch in branches])
        most, done = self._most(every), 0
        while alive := int((lengths > done).sum()):
            width = max(1, most // alive)
            pieces = [branches[i].tokens[done : done + width] for i in range(alive)]
            owner = np.repeat(np.arange(alive), [len(piece) for piece in pieces])
            at = done + np.concatenate([np.arange(len(piece)) for piece in pieces])
            wants = np.full(len(at), True) if every else at == lengths[owner] - 1
            logits = self._context.decode(np.concatenate(pieces), starts[owner] + at, owner, wants)
            if len(logits):
                yield owner[wants], at[wants] + 1, logits
            done += width

    def _most(self, every: bool) -> int:
        """Tokens in one batch."""
        settings = self._context.settings
        return min(settings.n_batch, settings.n_outputs) if every and settings.n_outputs else settings.n_batch

    def _prefixes(self, branches: Sequence[Branch]) -> Iterator[tuple[Floats, Indices]]:
        """Prepare the sequences of all branches; yield a prefix's (1, V) logits and its branches."""
        order = sorted(range(len(branches)), key=lambda i: (branches[i].prefix, i))
        groups = [(p, np.array(list(g))) for p, g in groupby(order, key=lambda i: branches[i].prefix)]
        alone = len(groups) == 1
        for prefix, members in groups:
            first = int(members[0])
            if alone and self._resident is not None and self._resident[0] == prefix:
                self._context.remove(first, len(prefix))
                logits = self._resident[1]
            else:
                logits = prefill(self._context, first, prefix)
            self._resident = (prefix, logits.copy()) if alone else None
            yield logits, members
            self._context.copy(first, members[1:].tolist())
