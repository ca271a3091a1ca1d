"""Intervals over prompts and seeds."""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray


class Spread(NamedTuple):
    """A mean and its 95 % interval."""

    mean: float
    low: float
    high: float


def over_prompts_and_seeds(values: NDArray[np.float64], resamples: int = 4000) -> Spread:
    """The mean of (N prompts, S seeds) values; both are drawn anew with replacement, each prompt with all its seeds.

    The two-way pigeonhole bootstrap (Owen 2007): prompts are shared by seeds, so neither alone is the sample. Seeds
    are few, so the interval is on the narrow side; the tables give the gain of every seed beside it.
    """
    prompts, seeds = _weights(*values.shape, resamples)
    means = np.einsum("rn,ns,rs->r", prompts, values, seeds, optimize=True)
    low, high = np.quantile(means, [0.025, 0.975])
    return Spread(float(values.mean()), float(low), float(high))


@cache
def _weights(n: int, s: int, resamples: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """(R, N) and (R, S): how often each resample draws each prompt and each seed, as shares."""
    rng = np.random.default_rng(0)
    return rng.multinomial(n, np.full(n, 1 / n), resamples) / n, rng.multinomial(s, np.full(s, 1 / s), resamples) / s
