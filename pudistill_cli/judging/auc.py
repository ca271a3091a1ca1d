"""Area under the ROC curve over candidates of all prompts, with a bootstrap interval over prompts."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from pudistill_cli.method.scorers import Array
from pudistill_cli.method.statistics import Interval


def auc_interval(
    keys: Sequence[str], scores: Sequence[Array], labels: Sequence[Array], seed: int, n: int = 1000
) -> Interval | None:
    """P(a positive scores above a negative) + P(equal) / 2 (Mann and Whitney 1947); None with one class only.

    Per group (K,) scores and labels, 0, 1 or NaN for what does not count. Prompts are drawn with replacement, all
    groups of one together; a draw with one class only is left out.
    """
    prompts = {key: i for i, key in enumerate(dict.fromkeys(keys))}
    owner = np.repeat([prompts[key] for key in keys], [len(s) for s in scores])
    label = np.concatenate(list(labels))
    counted = np.isfinite(label)
    owner, label = owner[counted], label[counted]
    rank = np.unique(np.concatenate(list(scores))[counted], return_inverse=True)[1]
    whole = weighted_auc(rank, label, np.ones(len(label)))
    if np.isnan(whole):
        return None
    rng = np.random.default_rng(seed)
    drawn = (np.bincount(rng.integers(0, len(prompts), len(prompts)), minlength=len(prompts)) for _ in range(n))
    resampled = np.array([weighted_auc(rank, label, counts[owner].astype(np.float64)) for counts in drawn])
    low, high = np.nanquantile(resampled, [0.025, 0.975])
    return Interval(whole, float(low), float(high))


def weighted_auc(rank: NDArray[np.intp], label: Array, weight: Array) -> float:
    """AUC of (N,) candidates that count `weight` times; `rank` numbers the distinct scores upwards from 0."""
    positive = np.bincount(rank, weight * label)
    negative = np.bincount(rank, weight * (1 - label))
    pairs = positive.sum() * negative.sum()
    below = np.cumsum(negative) - negative / 2
    return float(positive @ below / pairs) if pairs else float("nan")
