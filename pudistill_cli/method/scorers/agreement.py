"""Agreement between scorers as their weight in an ensemble: one that nobody agrees with does not count."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, TypeAlias

import numpy as np

from pudistill_cli.method.scorers import Array
from pudistill_cli.method.statistics import kendall_tau_b

Weighting: TypeAlias = Literal["equal", "agreement"]


def agreement_weights(scores: Sequence[Sequence[Array]]) -> Array:
    """(S,) weights of mean 1, from each scorer's (K,) scores of each item (ours).

    w_s = mean over the other scorers t of max(0, tau_st), tau_st the mean Kendall tau-b within groups: one that is
    reversed weighs nothing and takes no weight from the others. Two scorers always weigh the same; where none agrees
    with another, all do.
    """
    n = len(scores)
    tau = np.zeros((n, n))
    for a in range(n):
        for b in range(a):
            tau[a, b] = tau[b, a] = _mean_tau(scores[a], scores[b])
    weights = np.maximum(tau, 0.0).sum(axis=1) / max(n - 1, 1)
    return weights / weights.mean() if weights.any() else np.ones(n)


def _mean_tau(a: Sequence[Array], b: Sequence[Array]) -> float:
    """Over the groups where neither is constant; 0 where there is none."""
    taus = [kendall_tau_b(x, y) for x, y in zip(a, b, strict=True)]
    defined = [tau for tau in taus if not np.isnan(tau)]
    return float(np.mean(defined)) if defined else 0.0
