"""Length regressed out: what a scorer says beyond what the length of an answer already tells."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pudistill_cli.method.scorers import Array, Item, Judge, Scorer, Scores
from pudistill_cli.method.scorers.templates import Templates


@dataclass(frozen=True, slots=True)
class LengthFree:
    """A scorer's scores without the slope on length that the items of one call have in common."""

    relative = True

    scorer: Scorer

    @property
    def name(self) -> str:
        """The scorer's own, marked: its scores are others."""
        return f"{self.scorer.name}/length"

    @property
    def asks_model(self) -> bool:
        """As the scorer's own."""
        return self.scorer.asks_model

    @property
    def sees_anchor(self) -> bool:
        """As the scorer's own."""
        return self.scorer.sees_anchor

    def questions(self, templates: Templates) -> tuple[str, ...]:
        """The scorer's own."""
        return self.scorer.questions(templates)

    def score(self, judge: Judge, items: Sequence[Item]) -> Scores:
        """Yields when the scorer is through: the slope is that of all items."""
        raw = dict(self.scorer.score(judge, items))
        lengths = [np.array([float(len(c.tokens)) for c in item.candidates]) for item in items]
        yield from enumerate(without_length([raw[i] for i in range(len(items))], lengths))


def without_length(scores: Sequence[Array], lengths: Sequence[Array]) -> list[Array]:
    """Per group (K,): s_i - b (n_i - mean n), n the lengths in tokens (ours).

    b = sum (n - mean n)(s - mean s) / sum (n - mean n)^2, the sums over all groups, the means within each: the
    within-group ("fixed effects") least-squares slope. One slope for all groups, since a group of four answers would
    lose most of what its scores say to a slope of its own. A group's mean score stays as it is.
    """
    centred = [(s - s.mean(), n - n.mean()) for s, n in zip(scores, lengths, strict=True) if len(s)]
    spread = sum(float(n @ n) for _, n in centred)
    slope = sum(float(n @ s) for s, n in centred) / spread if spread else 0.0
    return [s - slope * (n - n.mean()) if len(s) else s for s, n in zip(scores, lengths, strict=True)]
