"""Agreement between scorers as their weight in an ensemble: one that nobody agrees with does not count."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, TypeAlias

import numpy as np

from pudistill_cli.method.scorers import Array
from pudistill_cli.method.statistics import mean_kendall

Weighting: TypeAlias = Literal["equal", "agreement"]


def agreement_weights(scores: Sequence[Sequence[Array]]) -> Array:
    """(S,) weights of mean 1, from each scorer's (K,) scores of each item (ours).

    w_s = mean over the other scorers t of max(0, tau_st), tau_st the mean Kendall tau-b within groups, 0 where no
    group has one: a scorer that is reversed weighs nothing and takes no weight from the others. Two scorers always
    weigh the same; where none agrees with another, all do.
    """
    n = len(scores)
    tau = np.zeros((n, n))
    for a in range(n):
        for b in range(a):
            tau[a, b] = tau[b, a] = mean_kendall(scores[a], scores[b])[0]
    weights = np.fmax(tau, 0.0).sum(axis=1) / max(n - 1, 1)
    return weights / weights.mean() if weights.any() else np.ones(n)
