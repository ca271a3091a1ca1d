"""`ensemble` (ours): scores standardised within the group and summed over scorers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pudistill_cli.method.preferences import center
from pudistill_cli.method.scorers import Array, Item, Judge, Scorer, Scores


@dataclass(frozen=True, slots=True)
class Ensemble:
    """Sum over scorers of the centred and scaled scores (`preferences.center`).

    The scale has a floor of half a scorer's deviation over all the items of one call, so the items of a round
    belong in one call. Scores compare answers of one group only: their mean is 0 in every group.
    """

    scorers: tuple[Scorer, ...]

    @property
    def name(self) -> str:
        """The scorers' names, joined by +."""
        return "+".join(s.name for s in self.scorers)

    @property
    def model(self) -> bool:
        """True if any of them asks the model."""
        return any(s.model for s in self.scorers)

    def score(self, judge: Judge, items: Sequence[Item]) -> Scores:
        """Yields when every scorer is through."""
        raw = [dict(scorer.score(judge, items)) for scorer in self.scorers]
        combined = combine([[scores[i] for i in range(len(items))] for scores in raw])
        yield from enumerate(combined)


def combine(scores: Sequence[Sequence[Array]]) -> list[Array]:
    """Per item (K,), from each scorer's (K,) scores of each item."""
    total = [np.zeros(len(s)) for s in scores[0]]
    for groups in scores:
        pooled = [s - s.mean() for s in groups if len(s)]
        deviation = float(np.concatenate(pooled).std()) if pooled else 0.0
        total = [t + center(s, deviation) for t, s in zip(total, groups, strict=True)]
    return total
