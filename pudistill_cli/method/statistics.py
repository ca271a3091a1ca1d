"""Bootstrap intervals over prompts, and rank correlation."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]


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
    rng = np.random.default_rng(seed)
    count = len(per_prompt)
    chunk = max(1, 1_000_000 // count)
    sizes = [min(chunk, n - start) for start in range(0, n, chunk)]
    means = np.concatenate([per_prompt[rng.integers(0, count, (size, count))].mean(axis=1) for size in sizes])
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(per_prompt.mean()), float(low), float(high))


def paired_difference(a: ArrayLike, b: ArrayLike, seed: int, n: int = 2000, level: float = 0.95) -> Interval:
    """Mean of a - b over the same N prompts, with its bootstrap interval; sample counts may differ."""
    left, right = _per_prompt(a), _per_prompt(b)
    return bootstrap_mean(left - right, seed, n, level)


def kendall_tau_b(a: ArrayLike, b: ArrayLike) -> float:
    """Rank correlation of two (K,) arrays, corrected for ties (Kendall 1945); NaN where one is constant."""
    x, y = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    upper = np.triu_indices(len(x), 1)
    signs_x = np.sign(x[:, None] - x[None, :])[upper]
    signs_y = np.sign(y[:, None] - y[None, :])[upper]
    norm = np.sqrt((signs_x**2).sum() * (signs_y**2).sum())
    return float((signs_x * signs_y).sum() / norm) if norm else float("nan")


def _per_prompt(values: ArrayLike) -> Array:
    array = np.asarray(values, dtype=np.float64)
    return array.mean(axis=tuple(range(1, array.ndim)))
