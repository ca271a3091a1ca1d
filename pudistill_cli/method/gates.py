"""Gates: which scorers can be trusted, measured without labels before any update (ours; docs/method.md)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np

from pudistill_cli.method.sampling import uniforms
from pudistill_cli.method.scorers import Array, Item, Judge, Scorer, Text
from pudistill_cli.method.scorers.ensemble import Ensemble
from pudistill_cli.method.scorers.likelihood import Likelihood
from pudistill_cli.method.scorers.pairwise import Pairwise
from pudistill_cli.method.statistics import kendall_tau_b

MIN_ANCHOR = 0.8
MIN_KENDALL = 0.2


@dataclass(frozen=True, slots=True)
class GateReport:
    """What a gate found of one scorer."""

    scorer: Scorer
    gate: Literal["corruption", "agreement"]
    passed: bool
    measure: float
    """corruption: share of prompts. agreement: mean Kendall tau-b. NaN where there was nothing to measure."""
    threshold: float
    details: Mapping[str, float] = field(default_factory=dict[str, float])
    """Reported, not judged: `prompts`, `length`, and where they apply `orders`, `views`."""


def examine(
    judge: Judge,
    scorers: Sequence[Scorer],
    items: Sequence[Item],
    seed: int,
    min_anchor: float = MIN_ANCHOR,
    min_kendall: float = MIN_KENDALL,
) -> list[GateReport]:
    """Put every scorer through its gate. The items hold candidates of the student as it is now."""
    trusted = collect(Likelihood(), judge, items)
    corrupted = corrupted_items(judge, items, seed) if any(s.model for s in scorers) else []
    reports: list[GateReport] = []
    for scorer in scorers:
        scores = trusted if scorer == Likelihood() else collect(scorer, judge, items)
        if scorer.model:
            report = corruption_gate(judge, scorer, corrupted, min_anchor)
        else:
            report = agreement_gate(scorer, scores, trusted, min_kendall)
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
    if not any(scorer.model for scorer in passed):
        return None
    return passed[0] if len(passed) == 1 else Ensemble(passed)


def corruption_gate(judge: Judge, scorer: Scorer, corrupted: Sequence[Item], threshold: float) -> GateReport:
    """Does a model scorer put the anchor above its corrupted copy (`corrupted_items`)? A tie is half."""
    scores = collect(scorer, judge, corrupted)
    wins = [(np.sign(s[0] - s[1]) + 1) / 2 for s in scores]
    share = float(np.mean(wins)) if wins else float("nan")
    return GateReport(scorer, "corruption", share >= threshold, share, threshold, {"prompts": len(wins)})


def agreement_gate(scorer: Scorer, scores: Sequence[Array], trusted: Sequence[Array], threshold: float) -> GateReport:
    """Does a string scorer order the candidates of a group as `likelihood` does?"""
    tau, groups = mean_kendall(scores, trusted)
    return GateReport(scorer, "agreement", tau >= threshold, tau, threshold, {"prompts": groups})


def corrupted_items(judge: Judge, items: Sequence[Item], seed: int) -> list[Item]:
    """Per item its anchor as candidate 0 and, as candidate 1, the anchor with one token resampled.

    The place is uniform over the anchor's tokens but its end of turn; the token is drawn from the student's
    own distribution there without the original, so the copy is plausible. Anchors of one token are left out.
    """
    found: list[Item] = []
    for item in items:
        tokens = item.anchor.tokens
        if len(tokens) < 2:
            continue
        place_u, token_u = uniforms(seed, 0, item.key, 0, 2)
        place = int(place_u * (len(tokens) - 1))
        log_p = judge.engine.distributions(item.prompt + tokens[:place], 1, judge.adapter)[0]
        p = np.exp(log_p.astype(np.float64))
        p[tokens[place]] = 0
        cdf = np.cumsum(p)
        other = min(int((cdf <= token_u * cdf[-1]).sum()), int(np.argmax(cdf >= cdf[-1])))
        copy = (*tokens[:place], other, *tokens[place + 1 :])
        found.append(replace(item, candidates=(item.anchor, Text(copy, judge.decode(copy)))))
    return found


def order_agreement(judge: Judge, items: Sequence[Item]) -> float:
    """Share of pairs of candidates that `pairwise` decides alike in both orders."""
    alike: list[bool] = []
    for _, first in Pairwise().first_wins(judge, items):
        upper = np.triu_indices(len(first), 1)
        alike.extend((first[upper] > 0) == (first.T[upper] < 0))
    return float(np.mean(alike)) if alike else float("nan")


def length_correlation(scores: Sequence[Array], items: Sequence[Item]) -> float:
    """Mean Kendall tau-b between scores and lengths in tokens, inside groups."""
    return mean_kendall(scores, [np.array([float(len(c.tokens)) for c in i.candidates]) for i in items])[0]


def mean_kendall(a: Sequence[Array], b: Sequence[Array]) -> tuple[float, int]:
    """Mean Kendall tau-b over the groups where it is defined, and their number; NaN where there is none."""
    taus = [kendall_tau_b(x, y) for x, y in zip(a, b, strict=True)]
    defined = [tau for tau in taus if not np.isnan(tau)]
    return (float(np.mean(defined)) if defined else float("nan")), len(defined)


def collect(scorer: Scorer, judge: Judge, items: Sequence[Item]) -> list[Array]:
    """A scorer's results in the order of the items."""
    scores = dict(scorer.score(judge, items))
    return [scores[i] for i in range(len(items))]
