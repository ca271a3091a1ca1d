"""Gates: which scorers can be trusted, measured without labels before every update (ours; docs/method.md)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np

from pudistill_cli.method.scorers import Array, Item, Judge, Scorer
from pudistill_cli.method.scorers.ensemble import Ensemble
from pudistill_cli.method.scorers.pairwise import Pairwise, decided_alike, strengths
from pudistill_cli.method.statistics import Interval, betting_interval, kendalls, mean_kendall
from pudistill_cli.method.wrong_answers import WrongAnswers

MIN_ANCHOR = 0.8
MIN_KENDALL = 0.2
FIRST_LOOK = 16
"""Prompts of a gate's first look; each further look has half as many more."""

SHARES, TAUS = (0.0, 1.0), (-1.0, 1.0)
"""Between what a gate's values lie."""


@dataclass(frozen=True, slots=True)
class GateReport:
    """What a gate found of one scorer."""

    scorer: Scorer
    gate: Literal["corruption", "candidates", "agreement", "drift"]
    measure: Interval
    """corruption, candidates: share of pairs. agreement, drift: mean Kendall tau-b. NaN: there was nothing to measure.
    The interval holds at 95 % however often the gate looked."""
    threshold: float
    details: Mapping[str, float] = field(default_factory=dict[str, float])
    """`prompts` that were looked at, `defined` of which had a value. Reported, not judged: `length`, and where they
    apply `orders`, `views`."""

    @property
    def passed(self) -> bool:
        """Before the first update: the measure reaches the threshold."""
        return self.measure.mean >= self.threshold

    @property
    def fell(self) -> bool:
        """Once it has passed, and is looked at each round: the measure is below the threshold by more than chance."""
        return self.measure.high < self.threshold

    @property
    def settled(self) -> bool:
        """Whether more prompts could only change the outcome by chance: the interval leaves the threshold out."""
        return self.measure.low >= self.threshold or self.fell


def choose(reports: Sequence[GateReport]) -> Scorer | None:
    """`scorer: auto`: the ensemble of what passed, or None.

    A string scorer was measured against the model's own judgement, so a model scorer must have passed too.
    """
    passed = tuple(report.scorer for report in reports if report.passed)
    if not any(scorer.asks_model for scorer in passed):
        return None
    return passed[0] if len(passed) == 1 else Ensemble(passed)


def looks(most: int) -> Iterator[int]:
    """The numbers of prompts at which a gate is looked at, `most` the last."""
    n = FIRST_LOOK
    while n < most:
        yield n
        n += n // 2
    yield most


def corruption_gate(
    judge: Judge, scorer: Scorer, wrong: WrongAnswers, threshold: float, advance: Callable[[int], None] = lambda n: None
) -> GateReport:
    """Does a model scorer put each anchor above its corrupted copy and another's? A tie is half.

    The pairs of a prompt are averaged first. A relative scorer sees each pair by itself. `advance` is told how many
    more prompts have been looked at.
    """
    shares: list[float] = []
    alike: list[float] = []
    report = GateReport(scorer, "corruption", betting_interval((), *SHARES), threshold)
    seen = 0
    for n in looks(len(wrong)):
        block = wrong.first(n)[seen:]
        asked = [item for item in block if len(item.candidates) > 1]
        shares += [_share_above(margins) for margins in _margins(judge, scorer, asked, alike)]
        advance(len(block))
        seen = n
        details = {"prompts": float(n), "defined": float(len(shares))}
        report = replace(report, measure=betting_interval(shares, *SHARES), details=details)
        if report.settled:
            break
    return replace(report, details={**report.details, "orders": float(np.mean(alike))}) if alike else report


def candidates_gate(scorer: Scorer, items: Sequence[Item], scores: Sequence[Array], threshold: float) -> GateReport:
    """Does a scorer put the anchor above the student's own answers, so far as these are others? A tie is half.

    `scores` are (K + 1,) an item: its candidates', then the anchor's, as a round has them anyway. Nothing is asked of
    the model. Only to pass by: good answers may well score above the anchor.
    """
    shares: list[float] = []
    for item, s in zip(items, scores, strict=True):
        other = [c.tokens != item.anchor.tokens for c in item.candidates]
        if any(other):
            shares.append(_share_above((s[-1] - s[:-1])[other]))
    details = {"prompts": float(len(items)), "defined": float(len(shares))}
    return GateReport(scorer, "candidates", betting_interval(shares, *SHARES), threshold, details)


def kendall_gate(
    gate: Literal["agreement", "drift"],
    scorer: Scorer,
    scores: Callable[[int], tuple[Sequence[Array], Sequence[Array]]],
    steps: Iterable[int],
    threshold: float,
) -> GateReport:
    """Does a scorer order the candidates of a group as it should?

    agreement: a string scorer, as `likelihood` does. drift: one that asks a refreshed judge, as asking the first one.
    `scores` gives both scores, (K,) a group, of the first n prompts, n one of `steps`.
    """
    report = GateReport(scorer, gate, betting_interval((), *TAUS), threshold)
    for n in steps:
        taus = kendalls(*scores(n))
        details = {"prompts": float(n), "defined": float(len(taus))}
        report = replace(report, measure=betting_interval(taus, *TAUS), details=details)
        if report.settled:
            break
    return report


def length_correlation(scores: Sequence[Array], items: Sequence[Item]) -> float:
    """Mean Kendall tau-b between scores and lengths in tokens, inside groups."""
    return mean_kendall(scores, [np.array([float(len(c.tokens)) for c in i.candidates]) for i in items])[0]


def collect(scorer: Scorer, judge: Judge, items: Sequence[Item]) -> list[Array]:
    """A scorer's results in the order of the items."""
    scores = dict(scorer.score(judge, items))
    return [scores[i] for i in range(len(items))]


def _margins(judge: Judge, scorer: Scorer, items: Sequence[Item], alike: list[float]) -> Iterator[Array]:
    """Yield, item by item, by how much candidate 0 is scored above each other one.

    Of `pairwise`, `alike` is told of each pair whether both orders decide it alike.
    """
    if not scorer.relative:
        yield from (s[0] - s[1:] for s in collect(scorer, judge, items))
        return
    pairs = [replace(item, candidates=(item.candidates[0], c)) for item in items for c in item.candidates[1:]]
    if isinstance(scorer, Pairwise):
        first = dict(scorer.first_wins(judge, pairs))
        alike += [float(decided_alike(first[i])[0]) for i in range(len(pairs))]
        scores = iter([strengths(first[i]) for i in range(len(pairs))])
    else:
        scores = iter(collect(scorer, judge, pairs))
    for item in items:
        yield np.array([s[0] - s[1] for s in (next(scores) for _ in item.candidates[1:])])


def _share_above(margins: Array) -> float:
    return float(np.mean((np.sign(margins) + 1) / 2))
