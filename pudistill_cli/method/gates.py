"""Gates: which scorers can be trusted, measured without labels before every update (ours; docs/method.md)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Literal

import numpy as np

from pudistill_cli.method.sampling import uniforms
from pudistill_cli.method.scorers import Array, Item, Judge, Scorer, Text
from pudistill_cli.method.scorers.ensemble import Ensemble
from pudistill_cli.method.scorers.likelihood import Likelihood
from pudistill_cli.method.scorers.pairwise import Pairwise, decided_alike
from pudistill_cli.method.scorers.reading import ask
from pudistill_cli.method.statistics import Interval, bootstrap_mean, kendalls, mean_kendall
from pudistill_cli.types import Floats

MIN_ANCHOR = 0.8
MIN_KENDALL = 0.2
SHARE = 0.25
"""Of an anchor's tokens, resampled in its corrupted copy: one alone is not what a rating looks for (LOG.md)."""
STRETCH = 64
"""Tokens of an anchor that are resampled among: so many distributions over the vocabulary are held at once."""


@dataclass(frozen=True, slots=True)
class GateReport:
    """What a gate found of one scorer."""

    scorer: Scorer
    gate: Literal["corruption", "agreement", "drift"]
    measure: Interval
    """corruption: share of pairs. agreement, drift: mean Kendall tau-b. NaN where there was nothing to measure."""
    threshold: float
    details: Mapping[str, float] = field(default_factory=dict[str, float])
    """Reported, not judged: `prompts`, `length`, and where they apply `orders`, `views`."""

    @property
    def passed(self) -> bool:
        """Before the first update: the measure reaches the threshold."""
        return self.measure.mean >= self.threshold

    @property
    def fell(self) -> bool:
        """Once it has passed, and is looked at each round: the measure is below the threshold by more than chance."""
        return self.measure.high < self.threshold


def examine(
    judge: Judge,
    scorers: Sequence[Scorer],
    items: Sequence[Item],
    seed: int,
    min_anchor: float = MIN_ANCHOR,
    min_kendall: float = MIN_KENDALL,
    student: Judge | None = None,
    known: Mapping[str, Sequence[Array]] = MappingProxyType({}),
) -> list[GateReport]:
    """Put every scorer through its gate.

    The items hold candidates of the student as it is now; `student` is asked for the tokens of corrupted anchors, the
    judge itself without it. `known` holds scores of the items by scorer, so that they are not computed again.
    """

    def scored(scorer: Scorer) -> Sequence[Array]:
        return known[scorer.name] if scorer.name in known else collect(scorer, judge, items)

    trusted = scored(Likelihood())
    asked = any(s.asks_model for s in scorers)
    wrong = [*corrupted_items(student or judge, items, seed), *exchanged_items(judge, items)] if asked else []
    reports: list[GateReport] = []
    for scorer in scorers:
        scores = trusted if scorer == Likelihood() else scored(scorer)
        if scorer.asks_model:
            report = corruption_gate(judge, scorer, wrong, min_anchor, seed)
        else:
            report = agreement_gate(scorer, scores, trusted, min_kendall, seed)
        details = {**report.details, "length": length_correlation(scores, items)}
        if scorer == Pairwise():
            details["orders"] = order_agreement(judge, items)
        if scorer == Likelihood() and judge.templates.other_views:
            others = [collect(Likelihood(view), judge, items) for view in judge.templates.other_views]
            details["views"] = float(np.mean([mean_kendall(scores, o)[0] for o in others]))
        reports.append(replace(report, details=details))
    return reports


def choose(reports: Sequence[GateReport]) -> Scorer | None:
    """`scorer: auto`: the ensemble of what passed, or None.

    A string scorer was measured against the model's own judgement, so a model scorer must have passed too.
    """
    passed = tuple(report.scorer for report in reports if report.passed)
    if not any(scorer.asks_model for scorer in passed):
        return None
    return passed[0] if len(passed) == 1 else Ensemble(passed)


def corruption_gate(judge: Judge, scorer: Scorer, wrong: Sequence[Item], threshold: float, seed: int) -> GateReport:
    """Does a model scorer put each item's first candidate above its second? A tie is half.

    The first is the anchor, the second a corrupted copy (`corrupted_items`) or another's (`exchanged_items`). The items
    of a prompt are averaged first.
    """
    wins: dict[str, list[float]] = {}
    for item, s in zip(wrong, collect(scorer, judge, wrong), strict=True):
        wins.setdefault(item.key, []).append(float(np.sign(s[0] - s[1]) + 1) / 2)
    shares = [sum(of_prompt) / len(of_prompt) for of_prompt in wins.values()]
    return GateReport(scorer, "corruption", _mean(shares, seed), threshold, {"prompts": len(shares)})


def agreement_gate(
    scorer: Scorer, scores: Sequence[Array], trusted: Sequence[Array], threshold: float, seed: int
) -> GateReport:
    """Does a string scorer order the candidates of a group as `likelihood` does?"""
    taus = kendalls(scores, trusted)
    return GateReport(scorer, "agreement", _mean(taus, seed), threshold, {"prompts": len(taus)})


def drift_gate(
    first: Judge, scorer: Scorer, items: Sequence[Item], scores: Sequence[Array], threshold: float, seed: int
) -> GateReport:
    """Does a scorer that asks a refreshed judge order the candidates of a group as it does asking the first judge?"""
    taus = kendalls(scores, collect(scorer, first, items))
    return GateReport(scorer, "drift", _mean(taus, seed), threshold, {"prompts": len(taus)})


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


def order_agreement(judge: Judge, items: Sequence[Item]) -> float:
    """Share of pairs of candidates that `pairwise` decides alike in both orders."""
    pairs = [decided_alike(first) for _, first in Pairwise().first_wins(judge, items)]
    alike = np.concatenate([np.zeros(0), *pairs])
    return float(alike.mean()) if alike.size else math.nan


def length_correlation(scores: Sequence[Array], items: Sequence[Item]) -> float:
    """Mean Kendall tau-b between scores and lengths in tokens, inside groups."""
    return mean_kendall(scores, [np.array([float(len(c.tokens)) for c in i.candidates]) for i in items])[0]


def _mean(values: Sequence[float], seed: int) -> Interval:
    return bootstrap_mean(values, seed) if values else Interval(math.nan, math.nan, math.nan)


def collect(scorer: Scorer, judge: Judge, items: Sequence[Item]) -> list[Array]:
    """A scorer's results in the order of the items."""
    scores = dict(scorer.score(judge, items))
    return [scores[i] for i in range(len(items))]
