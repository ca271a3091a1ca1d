"""`ensemble` (ours): scores standardised within the group and summed over scorers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pudistill_cli.method.preferences import center
from pudistill_cli.method.scorers import Array, Item, Judge, Scorer, Scores
from pudistill_cli.method.scorers.agreement import Weighting, agreement_weights
from pudistill_cli.method.scorers.templates import Templates


@dataclass(frozen=True, slots=True)
class Ensemble:
    """Sum over scorers of the centred and scaled scores (`preferences.center`).

    The scale has a floor of half a scorer's deviation over all the items of one call, so the items of a round
    belong in one call. Scores compare answers of one group only: their mean is 0 in every group.
    """

    relative = True

    scorers: tuple[Scorer, ...]
    weighting: Weighting = "equal"
    """agreement: each scorer counts as much as the others agree with it (`agreement_weights`)."""

    @property
    def name(self) -> str:
        """The scorers' names, joined by +."""
        return "+".join(s.name for s in self.scorers)

    @property
    def asks_model(self) -> bool:
        """True if any of them asks the model."""
        return any(s.asks_model for s in self.scorers)

    @property
    def sees_anchor(self) -> bool:
        """True if any of them does."""
        return any(s.sees_anchor for s in self.scorers)

    def questions(self, templates: Templates) -> tuple[str, ...]:
        """Those of all of them."""
        return tuple(question for s in self.scorers for question in s.questions(templates))

    def score(self, judge: Judge, items: Sequence[Item]) -> Scores:
        """Yields when every scorer is through."""
        by_index = [dict(scorer.score(judge, items)) for scorer in self.scorers]
        raw = [[scores[i] for i in range(len(items))] for scores in by_index]
        yield from enumerate(combine(raw, agreement_weights(raw) if self.weighting == "agreement" else None))


def combine(scores: Sequence[Sequence[Array]], weights: Array | None = None) -> list[Array]:
    """Per item (K,), from each scorer's (K,) scores of each item; `weights` are the scorers', 1 without."""
    total = [np.zeros(len(s)) for s in scores[0]]
    for groups, weight in zip(scores, np.ones(len(scores)) if weights is None else weights, strict=True):
        pooled = [s - s.mean() for s in groups if len(s)]
        deviation = float(np.concatenate(pooled).std()) if pooled else 0.0
        total = [t + weight * center(s, deviation) for t, s in zip(total, groups, strict=True)]
    return total
