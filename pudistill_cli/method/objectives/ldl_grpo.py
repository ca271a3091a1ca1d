"""LDL-GRPO (ours): the group's policy distribution is drawn to its label distribution.

Where this fills in or departs from the published abstract (Kou et al. 2026) and docs/method.md:
1. KL(d || p) is divided by beta: the gradient is -sum_i (d_i - p_i) grad log pi(y_i) for every beta, and the
   weights of the other two terms keep their meaning. beta says how far p follows the policy.
2. All is per answer, summed over tokens: r_i, the anchor's NLL (mean over groups), k3 (mean over members).
3. The clip is on the per-token geometric mean of the ratio: an answer that has moved by more than eps in the
   direction of its coefficient d_i - p_i is a constant.
4. Identical answers share one slot: log slots is added to the logits of both d and p.
5. distil * the distillation term of sdft.py; 0 unless asked for.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from pudistill_cli.method.objectives import GroupArrays
from pudistill_cli.method.objectives.terms import distillation, k3, log_ratio, nll, ratio
from pudistill_cli.method.xp import MASKED, log_softmax, stop_gradient


@dataclass(frozen=True, slots=True)
class LdlGrpo:
    """KL(d || p) / beta, p = softmax_i(beta r_i); plus NLL of the anchor and k3 KL to the round's start."""

    name: ClassVar[str] = "ldl-grpo"
    reference: ClassVar[Literal["sft", "round"]] = "round"
    ranks: ClassVar[bool] = True
    needs_posterior = False

    beta: float = 0.3
    eps: float = 0.2
    anchor_nll: float = 0.3
    kl: float = 0.05
    distil: float = 0.0

    @property
    def distils(self) -> bool:
        """Whether the judge is distilled too."""
        return self.distil > 0

    def loss(self, xp: Any, logp: Any, arrays: GroupArrays) -> tuple[Any, dict[str, Any]]:
        """docs/method.md, "LDL-GRPO" (ours)."""
        member = arrays.member > 0  # (G, M)
        label, slots = arrays.label, xp.log(xp.where(member, arrays.slots, 1.0))
        rows = self.moved(xp, logp, arrays)  # (G, M)

        p = xp.exp(log_softmax(xp, xp.where(member, self.beta * stop_gradient(xp, rows) + slots, MASKED)))
        stopped = self._stopped(xp, stop_gradient(xp, log_ratio(xp, logp, arrays)), label - p, arrays)
        rows = xp.where(stopped, stop_gradient(xp, rows), rows)
        log_p = log_softmax(xp, xp.where(member, self.beta * rows + slots, MASKED))
        log_d = xp.log(xp.where(label > 0, label, 1.0))
        group = ratio(xp.sum(label * (log_d - log_p)), arrays.n_groups)

        anchor = ratio(nll(xp, logp, arrays.mask, arrays.anchor), arrays.n_groups)
        token = arrays.mask * arrays.member[:, :, None]  # (G, M, T)
        kl = ratio(xp.sum(k3(xp, logp, arrays.reference) * token), arrays.n_members)
        metrics = {
            "group": group,
            "kl": kl,
            "nll": anchor,
            "clipped": ratio(xp.sum(stopped * arrays.member), arrays.n_members),
        }
        loss = group / self.beta + self.anchor_nll * anchor + self.kl * kl
        if self.distils:
            metrics["distil"] = distillation(xp, arrays)
            loss = loss + self.distil * metrics["distil"]
        return loss, metrics

    def moved(self, xp: Any, logp: Any, arrays: GroupArrays) -> Any:
        """(G, M) what p is the softmax of, over beta: r_i."""
        return log_ratio(xp, logp, arrays)

    def _stopped(self, xp: Any, rows: Any, coefficient: Any, arrays: GroupArrays) -> Any:
        """(G, M) true where the per-token ratio has left [1 - eps, 1 + eps] the coefficient's way."""
        length = xp.sum(arrays.mask, axis=-1)
        mean_ratio = xp.exp(rows / xp.where(length > 0, length, 1.0))
        up = (coefficient > 0) & (mean_ratio > 1 + self.eps)
        down = (coefficient < 0) & (mean_ratio < 1 - self.eps)
        return up | down
