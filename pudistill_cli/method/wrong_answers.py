"""What the gate of model scorers holds against an anchor: a corrupted copy of it, and another prompt's (ours)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property

import numpy as np

from pudistill_cli.method.sampling import uniforms
from pudistill_cli.method.scorers import Item, Judge, Text
from pudistill_cli.method.scorers.reading import ask
from pudistill_cli.types import Floats

SHARE = 0.25
"""Of an anchor's tokens, resampled in its corrupted copy: one alone is not what a rating looks for (LOG.md)."""
STRETCH = 64
"""Tokens of an anchor that are resampled among: so many distributions over the vocabulary are held at once."""


class WrongAnswers:
    """Of each prompt its anchor, candidate 0, and what must score below it; made when they are first asked for."""

    def __init__(self, judge: Judge, student: Judge, items: Sequence[Item], seed: int) -> None:
        """`student` corrupts the anchors of the items, whose candidates do not matter."""
        self._judge, self._student, self._items, self._seed = judge, student, items, seed
        self._made: list[Item] = []

    @cached_property
    def _exchanged(self) -> dict[str, Text]:
        return {item.key: item.candidates[1] for item in exchanged_items(self._judge, self._items)}

    def __len__(self) -> int:
        """Prompts that can be asked about."""
        return len(self._items)

    def first(self, n: int) -> Sequence[Item]:
        """Those of the first n prompts; one that has none is its anchor alone."""
        for item in self._items[len(self._made) : n]:
            wrong = [copy.candidates[1] for copy in corrupted_items(self._student, [item], self._seed)]
            wrong += [self._exchanged[item.key]] if item.key in self._exchanged else []
            self._made.append(replace(item, candidates=(item.anchor, *wrong)))
        return self._made[:n]


def corrupted_items(judge: Judge, items: Sequence[Item], seed: int, share: float = SHARE) -> list[Item]:
    """Per item its anchor as candidate 0 and, as candidate 1, the anchor with a share of its tokens resampled.

    At least one, never the end of turn, and of a long anchor those of a stretch of `STRETCH` tokens. Each is drawn from
    the student's own distribution there, behind the anchor as it was and without the original, so that the copy is
    plausible. Anchors of one token are left out.
    """
    corrupted: list[Item] = []
    for item in items:
        tokens = item.anchor.tokens
        length = min(len(tokens) - 1, STRETCH)
        if length < 1:
            continue
        start_u, *order_u = uniforms(seed, 0, item.key, 0, 1 + length)
        token_u: list[float] = uniforms(seed, 0, item.key, 1, length).tolist()
        order: list[int] = np.argsort(order_u).tolist()
        start = int(start_u * (len(tokens) - length))
        prefix = item.prompt + tokens[: start + length - 1]
        log_p = judge.engine.distributions(prefix, length, judge.adapter)  # (length, V)
        copy = list(tokens)
        for place in order[: max(1, round(share * length))]:
            copy[start + place] = _other_token(log_p[place], tokens[start + place], token_u[place])
        corrupted.append(replace(item, candidates=(item.anchor, Text(tuple(copy), judge.decode(copy)))))
    return corrupted


def exchanged_items(judge: Judge, items: Sequence[Item]) -> list[Item]:
    """Per item its anchor as candidate 0 and, as candidate 1, the next item's that is another and fits the context."""
    exchanged: list[Item] = []
    for i, item in enumerate(items):
        own = item.anchor.tokens
        longest = math.inf if judge.context is None else judge.context - len(ask(judge, item, judge.templates.view))
        anchors = (other.anchor for other in (*items[i + 1 :], *items[:i]))
        other = next((a for a in anchors if a.tokens != own and len(a.tokens) <= longest), None)
        if other is not None:
            exchanged.append(replace(item, candidates=(item.anchor, other)))
    return exchanged


def _other_token(log_p: Floats, token: int, u: float) -> int:
    """A draw by inverse CDF from (V,) log-probs without `token`."""
    p = np.exp(log_p.astype(np.float64))
    p[token] = 0
    cdf = np.cumsum(p)
    return min(int((cdf <= u * cdf[-1]).sum()), int(np.argmax(cdf >= cdf[-1])))
