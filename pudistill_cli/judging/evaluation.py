"""A scorer evaluated: its scores of every group, compared with the gold grades, and what they cost."""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np

from pudistill_cli.judging.evaluation_set import Advance, EvaluationSet
from pudistill_cli.judging.measures import Measures, clustered, measure, order_consistency
from pudistill_cli.method.scorers import Array, Judge, Scorer
from pudistill_cli.method.scorers.pairwise import Pairwise, strengths
from pudistill_cli.method.statistics import Interval


@dataclass(frozen=True, slots=True)
class ScorerOutput:
    """What one scorer gave for an evaluation set's groups, in their order."""

    scores: list[Array]
    orders: list[float] | None
    """Of `pairwise`, per group: share of the pairs decided alike in both orders."""
    seconds: float


@dataclass(frozen=True, slots=True)
class ScorerEvaluation:
    """How well one scorer judges, and what it costs."""

    scorer: str
    measures: Measures
    orders: Interval | None
    """Of `pairwise`: share of the pairs decided alike in both orders."""
    tokens: Interval
    """Read through the model for a judgement of one candidate; a prefix that is shared counts once."""
    seconds: float
    """By the clock, for a judgement of one candidate; answers come in batches, so there is no interval."""


def evaluate_scorer(
    judge: Judge, scorer: Scorer, data: EvaluationSet, advance: Advance, seed: int = 0
) -> ScorerEvaluation:
    """Score every group and compare with gold."""
    return compare_with_gold(scorer, data, run_scorer(judge, scorer, data, advance), seed)


def run_scorer(judge: Judge, scorer: Scorer, data: EvaluationSet, advance: Advance) -> ScorerOutput:
    """A scorer's scores of the groups, in their order."""
    started = time.monotonic()
    scores: dict[int, Array] = {}
    orders: dict[int, float] = {}
    if isinstance(scorer, Pairwise):
        for index, first in scorer.first_wins(judge, data.items):
            scores[index], orders[index] = strengths(first), order_consistency(first)
            advance()
    else:
        for index, of_item in scorer.score(judge, data.items):
            scores[index] = of_item
            advance()
    places = range(len(data.items))
    in_order = [orders[i] for i in places] if orders else None
    return ScorerOutput([scores[i] for i in places], in_order, time.monotonic() - started)


def compare_with_gold(scorer: Scorer, data: EvaluationSet, output: ScorerOutput, seed: int = 0) -> ScorerEvaluation:
    """Measure a scorer's output against the gold grades."""
    keys = [group.key for group in data.gold]
    counts = [len(item.candidates) for item in data.items]
    per_candidate = [t.total / n for t, n in zip(data.token_counts[scorer.name], counts, strict=True)]
    tokens = clustered(keys, np.array(per_candidate), seed)
    assert tokens is not None, "an evaluation set is not empty"
    lengths = [np.array([float(len(c.tokens)) for c in item.candidates]) for item in data.items]
    grades = [np.array(group.grades) for group in data.gold]
    return ScorerEvaluation(
        scorer=scorer.name,
        measures=measure(keys, output.scores, grades, lengths, seed),
        orders=None if output.orders is None else clustered(keys, np.array(output.orders), seed),
        tokens=tokens,
        seconds=output.seconds / sum(counts),
    )
