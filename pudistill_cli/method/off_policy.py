"""How far the policy that sampled is from another one: the learner's, or what it has become since.

A quantised sampler is off-policy. Log-probs in an objective's ratio are the learner's own; what is measured here says
how much the candidates differ from its own. Answers of earlier rounds are weighed by how likely they still are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

MEAN_WARNING = 0.05
"""Mean difference in nats a token above which a run warns. Were they independent, a candidate of 50 tokens would
weigh e^(0.05 sqrt(50)) = 1.4 times too much or too little."""
ESS_WARNING = 0.5
"""Share of the candidates that are worth a candidate of the learner's own, below which a run warns."""


@dataclass(frozen=True, slots=True)
class Gap:
    """Sampler against learner, on the candidates that were drawn."""

    mean: float
    """Mean |log p_learner - log p_sampler| of a token, in nats."""
    maximum: float
    ess: float
    """Effective sample size over the number of candidates, in (0, 1]."""

    @property
    def large(self) -> bool:
        """Past a threshold."""
        return self.mean > MEAN_WARNING or self.ess < ESS_WARNING


def sampler_gap(sampler: Sequence[NDArray[np.float32]], learner: Sequence[NDArray[np.float32]]) -> Gap:
    """Compare (T,) log-probs of the same tokens, candidate by candidate; at least one candidate.

    With w_i = p_learner(y_i) / p_sampler(y_i), the effective sample size is (sum w)^2 / sum w^2 (Kish 1965; for
    importance sampling Kong 1992), here over the number of candidates. It is computed from log w, centred.
    """
    differences = _differences(sampler, learner)
    tokens = np.abs(np.concatenate(differences))
    log_weights = np.array([d.sum() for d in differences])
    weights = np.exp(log_weights - log_weights.max())
    ess = float(weights.sum() ** 2 / (weights**2).sum() / len(weights))
    return Gap(float(tokens.mean()), float(tokens.max()), ess)


def truncated_weights(then: Sequence[NDArray[np.float32]], now: Sequence[NDArray[np.float32]]) -> NDArray[np.float64]:
    """(K,) min(1, p_now(y_i) / p_then(y_i)) from (T,) log-probs of the same tokens (Ionides 2008, truncated at 1).

    At 1 no answer counts for more than one that was drawn now, and an answer that the policy has left for nothing.
    """
    return np.exp(np.minimum(0.0, [d.sum() for d in _differences(then, now)]))


def _differences(a: Sequence[NDArray[np.float32]], b: Sequence[NDArray[np.float32]]) -> list[NDArray[np.float64]]:
    return [y.astype(np.float64) - x.astype(np.float64) for x, y in zip(a, b, strict=True)]
