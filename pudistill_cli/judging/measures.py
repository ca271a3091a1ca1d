"""How well scores agree with gold grades, and what else is true of them: each with an interval over prompts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pudistill_cli.judging.auc import auc_interval
from pudistill_cli.method.scorers import Array
from pudistill_cli.method.scorers.pairwise import decided_alike
from pudistill_cli.method.statistics import Interval, bootstrap_mean, kendall_tau_b, pair_accuracy


@dataclass(frozen=True, slots=True)
class Measures:
    """Of one scorer; None where there was nothing to measure."""

    accuracy: Interval | None
    """Share of the pairs within a group that are ordered as gold has them, equal scores counting half."""
    kendall: Interval | None
    """Tau-b of scores and grades within groups where neither is constant."""
    auc: Interval | None
    """Of telling candidates above the median grade from the others, over all groups."""
    length: Interval | None
    """Tau-b of scores and lengths in tokens within groups."""
    groups: int
    """With a pair of unequal grades."""


def measure(
    keys: Sequence[str], scores: Sequence[Array], grades: Sequence[Array], lengths: Sequence[Array], seed: int = 0
) -> Measures:
    """Compare per group (K,) scores with (K,) grades; `keys` name the prompts, the clusters of the bootstrap."""
    accuracy = np.array([pair_accuracy(s, g) for s, g in zip(scores, grades, strict=True)])
    return Measures(
        accuracy=clustered(keys, accuracy, seed),
        kendall=clustered(keys, np.array([kendall_tau_b(s, g) for s, g in zip(scores, grades, strict=True)]), seed),
        auc=auc_interval(keys, scores, above_median(grades), seed),
        length=clustered(keys, np.array([kendall_tau_b(s, n) for s, n in zip(scores, lengths, strict=True)]), seed),
        groups=int(np.isfinite(accuracy).sum()),
    )


def order_consistency(first: Array) -> float:
    """Share of the pairs that (K, K) log-odds of the one shown first decide alike in both orders."""
    return float(decided_alike(first).mean()) if len(first) > 1 else float("nan")


def above_median(grades: Sequence[Array]) -> list[Array]:
    """Per group (K,): 1 above the median grade of all candidates, 0 below or at it; NaN in a group that is all at it.

    Such a group is a tie, which says nothing here. Where no grade is above the median, because most candidates are
    right, 1 is the median itself.
    """
    whole = np.concatenate(list(grades))
    median = float(np.median(whole))
    bar = median if median < whole.max() else float(np.nextafter(median, -np.inf))
    return [np.full(len(g), np.nan) if (g == median).all() else (g > bar).astype(np.float64) for g in grades]


def clustered(keys: Sequence[str], values: Array, seed: int) -> Interval | None:
    """Mean over prompts of the mean of a prompt's groups, NaN groups left out; None where none is left."""
    by_prompt: dict[str, list[float]] = {}
    for key, value in zip(keys, values.tolist(), strict=True):
        if np.isfinite(value):
            by_prompt.setdefault(key, []).append(value)
    if not by_prompt:
        return None
    return bootstrap_mean([float(np.mean(of_prompt)) for of_prompt in by_prompt.values()], seed)
