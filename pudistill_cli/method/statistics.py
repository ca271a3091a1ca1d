"""Intervals over prompts, by bootstrap or by betting, and agreement of two orders."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]

BETS = np.linspace(0.0, 1.0, 11)
"""Shares of its capital that a bettor stakes (`betting_interval`)."""
GRID = 1000
"""Steps in which `betting_interval` looks for its ends."""


@dataclass(frozen=True, slots=True)
class Interval:
    """A mean and its interval."""

    mean: float
    low: float
    high: float


def bootstrap_mean(values: ArrayLike, seed: int, n: int = 2000, level: float = 0.95) -> Interval:
    """Mean of (N,) or (N, S) values with a percentile bootstrap interval (Efron 1979).

    The prompts are the clusters: (N, S) is averaged over its S samples, then prompts are drawn with
    replacement.
    """
    per_prompt = _per_prompt(values)
    means = [per_prompt[drawn].mean(axis=1) for drawn in _resamples(len(per_prompt), seed, n)]
    return _percentile(float(per_prompt.mean()), means, level)


def bootstrap_ratio(above: ArrayLike, below: ArrayLike, seed: int, n: int = 2000, level: float = 0.95) -> Interval:
    """Ratio of the means of two (N,) arrays over the same prompts, `below` above 0 throughout, with its interval."""
    top, bottom = np.asarray(above, dtype=np.float64), np.asarray(below, dtype=np.float64)
    ratios = [top[drawn].mean(axis=1) / bottom[drawn].mean(axis=1) for drawn in _resamples(len(top), seed, n)]
    return _percentile(float(top.mean() / bottom.mean()), ratios, level)


def paired_difference(a: ArrayLike, b: ArrayLike, seed: int, n: int = 2000, level: float = 0.95) -> Interval:
    """Mean of a - b over the same N prompts, with its bootstrap interval; sample counts may differ."""
    left, right = _per_prompt(a), _per_prompt(b)
    return bootstrap_mean(left - right, seed, n, level)


def betting_interval(values: ArrayLike, lowest: float, highest: float, level: float = 0.95) -> Interval:
    """Mean of (N,) independent values in [lowest, highest], with an interval that holds however often it is looked at.

    A mean m, values and it scaled to [0, 1], is too low where bets against it have paid: by Ville's inequality
    mean over b of prod_i (1 + b (x_i - m) / m), b in `BETS`, reaches 2 / (1 - level) with probability (1 - level) / 2
    at most, whatever N it is stopped at, if the mean is m or less; likewise from above. No shape of the distribution
    is assumed (diversified bets of Waudby-Smith and Ramdas 2024, arXiv 2010.09686). NaN without values.
    """
    x = np.asarray(values, dtype=np.float64)
    if not x.size:
        return Interval(math.nan, math.nan, math.nan)
    mean, width = float(x.mean()), highest - lowest
    scaled, counts = np.unique((x - lowest) / width, return_counts=True)
    means = np.arange(1, GRID) / GRID
    ends = np.round(lowest + width * means, 9)
    above = ends[_capital(scaled, counts, means) >= 2 / (1 - level)]
    below = ends[_capital(1 - scaled, counts, 1 - means) >= 2 / (1 - level)]
    low, high = max(above, default=lowest), min(below, default=highest)
    return Interval(mean, min(float(low), mean), max(float(high), mean))


def _capital(x: Array, counts: NDArray[np.int64], means: Array) -> Array:
    """(M,) what 1 has become by bets, in equal parts at each of `BETS`, that the mean of `x` is above each of M."""
    with np.errstate(divide="ignore", over="ignore"):  # all staked and lost; enough won
        logs = [np.log1p(bet * (x / means[:, None] - 1)) @ counts for bet in BETS]
        return np.exp(logs).mean(axis=0)


def kendall_tau_b(a: ArrayLike, b: ArrayLike) -> float:
    """Rank correlation of two (K,) arrays, corrected for ties (Kendall 1945); NaN where one is constant."""
    x, y = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    upper = np.triu_indices(len(x), 1)
    signs_x = np.sign(x[:, None] - x[None, :])[upper]
    signs_y = np.sign(y[:, None] - y[None, :])[upper]
    norm = np.sqrt((signs_x**2).sum() * (signs_y**2).sum())
    return float((signs_x * signs_y).sum() / norm) if norm else float("nan")


def mean_kendall(a: Sequence[Array], b: Sequence[Array]) -> tuple[float, int]:
    """Mean Kendall tau-b over the groups where it is defined, and their number; NaN where there is none."""
    taus = kendalls(a, b)
    return (float(np.mean(taus)) if taus else math.nan), len(taus)


def kendalls(a: Sequence[Array], b: Sequence[Array]) -> list[float]:
    """Kendall tau-b of the groups where it is defined."""
    taus = [kendall_tau_b(x, y) for x, y in zip(a, b, strict=True)]
    return [tau for tau in taus if not math.isnan(tau)]


def pair_accuracy(scores: Array, grades: Array) -> float:
    """Share of the pairs of unequal grades that the scores order alike, a tie being half; NaN without such a pair."""
    upper = np.triu_indices(len(grades), 1)
    gold = np.sign(grades[:, None] - grades[None, :])[upper]
    predicted = np.sign(scores[:, None] - scores[None, :])[upper]
    unequal = gold != 0
    return float(((1 + gold * predicted) / 2)[unequal].mean()) if unequal.any() else float("nan")


def _resamples(count: int, seed: int, n: int) -> Iterator[NDArray[np.int64]]:
    """n draws of `count` indices with replacement, as (some, count) arrays of bounded size."""
    rng = np.random.default_rng(seed)
    chunk = max(1, 1_000_000 // count)
    for start in range(0, n, chunk):
        yield rng.integers(0, count, (min(chunk, n - start), count))


def _percentile(value: float, resampled: list[Array], level: float) -> Interval:
    low, high = np.quantile(np.concatenate(resampled), [(1 - level) / 2, (1 + level) / 2])
    return Interval(value, float(low), float(high))


def _per_prompt(values: ArrayLike) -> Array:
    array = np.asarray(values, dtype=np.float64)
    return array.mean(axis=tuple(range(1, array.ndim)))
