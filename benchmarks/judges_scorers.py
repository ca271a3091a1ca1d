"""What the judges' benchmark measures: every scorer, variants that no recipe has, and planted bad judges.

A bad judge claims to ask the model with the anchor in view, so that a run trusts it as far as it does the others.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import combinations

import numpy as np

from benchmarks.fixtures.judge import wordings
from pudistill_cli.method.sampling import uniforms
from pudistill_cli.method.scorers import Item, Judge, Scorer, Scores, no_questions
from pudistill_cli.method.scorers.ensemble import Ensemble
from pudistill_cli.method.scorers.length import LengthFree
from pudistill_cli.method.scorers.pairwise import Pairwise, bradley_terry
from pudistill_cli.method.scorers.registry import SCORERS
from pudistill_cli.method.scorers.templates import Templates

NAMES = ("likelihood", "likelihood-blind", "pmi", "verdict", "verdict-contextual", "verdict-batch", "pairwise", "chrf",
         "token-f1")  # fmt: skip
ASKED = ("verdict", "verdict-contextual", "verdict-batch", "pairwise")
"""The scorers whose question has wordings."""
WORDINGS: dict[str, Templates] = {
    "second wording": replace(wordings.HOME, verdict=wordings.VERDICTS[1], pairwise=wordings.PAIRWISE[1]),
    "both wordings": replace(wordings.HOME, other_verdicts=wordings.VERDICTS[1:], other_pairwise=wordings.PAIRWISE[1:]),
}


@dataclass(frozen=True)
class OneOrder:
    """`pairwise` at half its cost: each pair in one order only, with or without the batch's mean log-odds removed."""

    calibrated: bool
    asks_model = True
    sees_anchor = True
    relative = True

    @property
    def name(self) -> str:
        return "one-order-batch" if self.calibrated else "one-order"

    def questions(self, templates: Templates) -> tuple[str, ...]:
        return Pairwise().questions(templates)

    def score(self, judge: Judge, items: Sequence[Item]) -> Scores:
        """The answer that was drawn earlier is shown first."""
        read = dict(Pairwise().first_wins(judge, items))
        pairs = [odds[np.triu_indices(len(odds), 1)] for odds in read.values()]
        prior = float(np.concatenate(pairs).mean()) if self.calibrated else 0.0
        for index, odds in read.items():
            upper = np.triu(odds - prior, 1)
            yield index, bradley_terry(upper - upper.T)


@dataclass(frozen=True)
class Planted:
    """A bad judge: uniform numbers, or another scorer's opinion turned round."""

    reversed: Scorer | None = None
    asks_model = True
    sees_anchor = True
    relative = False
    questions = no_questions

    @property
    def name(self) -> str:
        return "random" if self.reversed is None else f"reversed-{self.reversed.name}"

    def score(self, judge: Judge, items: Sequence[Item]) -> Scores:
        """Independent of the answers, or against them."""
        if self.reversed is not None:
            yield from ((index, -scores) for index, scores in self.reversed.score(judge, items))
            return
        for index, item in enumerate(items):
            yield index, uniforms(0, 0, item.key, 0, len(item.candidates))


@dataclass(frozen=True)
class Length:
    """A bad judge: in love with long answers, or with short ones."""

    sign: int
    asks_model = True
    sees_anchor = True
    relative = False
    questions = no_questions

    @property
    def name(self) -> str:
        return "long" if self.sign > 0 else "short"

    def score(self, judge: Judge, items: Sequence[Item]) -> Scores:
        """The length in tokens."""
        for index, item in enumerate(items):
            yield index, self.sign * np.array([float(len(c.tokens)) for c in item.candidates])


@dataclass(frozen=True)
class Once:
    """Asks one judge about the same items once, however many ensembles want to know."""

    scorer: Scorer
    held: dict[int, np.ndarray] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return self.scorer.name

    @property
    def asks_model(self) -> bool:
        return self.scorer.asks_model

    @property
    def sees_anchor(self) -> bool:
        return self.scorer.sees_anchor

    @property
    def relative(self) -> bool:
        return self.scorer.relative

    def questions(self, templates: Templates) -> tuple[str, ...]:
        return self.scorer.questions(templates)

    def score(self, judge: Judge, items: Sequence[Item]) -> Scores:
        """As the scorer, or as it said before; a single item, which is only counted, is not kept."""
        if len(items) == 1:
            yield from self.scorer.score(judge, items)
            return
        if not self.held:
            self.held.update(self.scorer.score(judge, items))
        yield from self.held.items()


def scorers() -> list[Scorer]:
    """Everything that one judge is measured on in the first wording."""
    model = tuple(Once(SCORERS[name]) for name in ("likelihood", "verdict", "pairwise"))
    bad = Planted(model[1])
    return [
        *(SCORERS[name] for name in NAMES),
        OneOrder(False),
        OneOrder(True),
        *(LengthFree(scorer) for scorer in model),
        *(Ensemble(pair) for pair in combinations(model, 2)),
        Ensemble(model),
        Ensemble(model, "agreement"),
        Ensemble((model[0], SCORERS["token-f1"])),
        Ensemble((model[0], SCORERS["token-f1"], model[1])),
        Ensemble((model[0], SCORERS["token-f1"], model[1]), "agreement"),
        Planted(),
        Ensemble((*model, Planted())),
        Ensemble((*model, Planted()), "agreement"),
        Ensemble((*model[::2], bad)),
        Ensemble((*model[::2], bad), "agreement"),
    ]


def named(scorer: Scorer) -> str:
    """Its own name, with how an ensemble weighs."""
    weighed = isinstance(scorer, Ensemble) and scorer.weighting == "agreement"
    return f"{scorer.name} (agreement)" if weighed else scorer.name
