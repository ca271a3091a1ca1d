"""Self-distillation with the anchor in view, a baseline: no ranking, only the judge's distributions (SDFT).

Departures from Shenfeld et al. 2026 (arXiv 2601.19897):
1. The teacher is the run's frozen judge; theirs is a moving average of the student's weights.
2. Samples are the round's candidates, drawn at its start and used once; truncated ones are left out.
3. anchor_nll * NLL of the anchor and kl * k3 to the round's start, as in ldl_grpo.py; 0 leaves their loss.
4. The KL of a token is summed over an answer's tokens, then a mean over answers, on the scale of LDL-GRPO's terms.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from pudistill_cli.method.objectives import GroupArrays
from pudistill_cli.method.objectives.terms import distillation, k3, nll, ratio


@dataclass(frozen=True, slots=True)
class Sdft:
    """Reverse KL to the judge with the anchor in view, token by token on the candidates; plus NLL of the anchor."""

    name: ClassVar[str] = "sdft"
    reference: ClassVar[Literal["sft", "round"]] = "round"
    ranks: ClassVar[bool] = False
    distils = True
    needs_posterior = False

    anchor_nll: float = 0.3
    kl: float = 0.0

    def loss(self, xp: Any, logp: Any, arrays: GroupArrays) -> tuple[Any, dict[str, Any]]:
        """Shenfeld et al. 2026, eq. 1, the whole vocabulary at each token of a fixed sample."""
        distil = distillation(xp, arrays)
        anchor = ratio(nll(xp, logp, arrays.mask, arrays.anchor), arrays.n_groups)
        token = arrays.mask * arrays.member[:, :, None]  # (G, M, T)
        kl = ratio(xp.sum(k3(xp, logp, arrays.reference) * token), arrays.n_members)
        metrics = {"distil": distil, "nll": anchor, "kl": kl}
        return distil + self.anchor_nll * anchor + self.kl * kl, metrics
