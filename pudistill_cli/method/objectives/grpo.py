"""GRPO with token-level normalisation, truncated candidates masked, the anchor a member of the group.

Departures from Shao et al. 2024:
1. The sum over member tokens is divided by their number in the whole step, not first by each answer's length
   (DAPO, Yu et al. 2025, eq. 8); an answer that was cut off is no member (their "overlong filtering").
2. The advantage's divisor has a floor of half the run's deviation (ours; preferences.py).
3. The anchor can be a member; its ratio is against the sampling policy's log-probs like any other's (ours).
4. anchor_nll * NLL of the anchor, per token; 0 unless asked for, which leaves trl's loss (ours).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from pudistill_cli.method.objectives import GroupArrays
from pudistill_cli.method.objectives.terms import k3, nll, ratio


@dataclass(frozen=True, slots=True)
class Grpo:
    """Clipped policy ratio times group-relative advantage, k3 KL to the reference, per member token."""

    name: ClassVar[str] = "grpo"
    reference: ClassVar[Literal["sft", "round"]] = "sft"
    ranks: ClassVar[bool] = True
    distils = False
    needs_posterior = False

    eps: float = 0.2
    kl: float = 0.05
    anchor_nll: float = 0.0

    def loss(self, xp: Any, logp: Any, arrays: GroupArrays) -> tuple[Any, dict[str, Any]]:
        """Shao et al. 2024, eq. 3.

        Equal to trl's `loss_type="dapo"` with `beta=kl`, `epsilon=eps`, `mask_truncated_completions=True`.
        """
        token = arrays.mask * arrays.member[:, :, None]  # (G, M, T)
        policy_ratio = xp.exp((logp - arrays.behaviour) * (token > 0))
        advantage = arrays.advantage[:, :, None]
        clipped = xp.clip(policy_ratio, 1 - self.eps, 1 + self.eps)
        surrogate = xp.minimum(policy_ratio * advantage, clipped * advantage)
        policy = -ratio(xp.sum(surrogate * token), arrays.n_tokens)
        kl = ratio(xp.sum(k3(xp, logp, arrays.reference) * token), arrays.n_tokens)
        anchor = ratio(nll(xp, logp, arrays.mask, arrays.anchor), arrays.n_anchor_tokens)
        stopped = (surrogate < policy_ratio * advantage) * token
        metrics = {
            "policy": policy,
            "kl": kl,
            "nll": anchor,
            "clipped": ratio(xp.sum(stopped), arrays.n_tokens),
        }
        return policy + self.kl * kl + self.anchor_nll * anchor, metrics
