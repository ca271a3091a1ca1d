"""Terms that several objectives add up: sequence log-ratios, k3, NLL, anchor over candidates, distillation."""

from __future__ import annotations

from typing import Any

from pudistill_cli.method.objectives import GroupArrays
from pudistill_cli.method.xp import softplus

LOG_RATIO_CAP = 3.2
"""k3 is 20 at this log-ratio; a token further below the reference gets no gradient from it (ours)."""


def sequence(xp: Any, per_token: Any, mask: Any) -> Any:
    """Sum over an answer's tokens: (G, M, T), (G, M, T) -> (G, M)."""
    return xp.sum(per_token * mask, axis=-1)


def log_ratio(xp: Any, logp: Any, arrays: GroupArrays) -> Any:
    """r_i = log pi(y_i) / pi_ref(y_i), summed over tokens: (G, M)."""
    return sequence(xp, logp - arrays.reference, arrays.mask)


def k3(xp: Any, logp: Any, reference: Any) -> Any:
    """Per-token estimate of KL(pi || pi_ref), at least 0: q - 1 - log q, q = pi_ref / pi (Schulman 2020)."""
    log_q = xp.clip(reference - logp, -1e4, LOG_RATIO_CAP)
    return xp.exp(log_q) - 1 - log_q


def nll(xp: Any, logp: Any, mask: Any, weight: Any) -> Any:
    """-log pi(y_i), summed over tokens and weighted by row: a scalar. `weight` is (G, M)."""
    return -xp.sum(weight * sequence(xp, logp, mask))


def anchor_over_candidates(xp: Any, logp: Any, arrays: GroupArrays, beta: float, weight: Any = 1.0) -> Any:
    """-log sigmoid(beta (r_anchor - r_i)) by row weight (G, M), mean over a group's candidates, then over groups."""
    rows = log_ratio(xp, logp, arrays)  # (G, M)
    anchor = xp.sum(rows * arrays.anchor, axis=-1, keepdims=True)  # (G, 1)
    candidate = arrays.member * (1 - arrays.anchor)
    count = xp.sum(candidate, axis=-1, keepdims=True)
    share = weight * candidate / xp.where(count > 0, count, 1.0)
    return ratio(xp.sum(share * softplus(xp, -beta * (anchor - rows))), arrays.n_groups)


def distillation(xp: Any, arrays: GroupArrays) -> Any:
    """Sum over tokens of KL(pi || judge with the anchor in view), mean over candidates that are members."""
    candidate = arrays.member * (1 - arrays.anchor)  # (G, M)
    return ratio(xp.sum(candidate * sequence(xp, arrays.divergence, arrays.mask)), arrays.n_candidates)


def ratio(numerator: Any, count: float) -> Any:
    """A sum over a step's constant; 0 where the step has none of the counted."""
    return numerator / max(count, 1.0)
