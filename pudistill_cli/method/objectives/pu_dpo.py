"""PU-DPO (ours): the anchor beats a candidate as far as the candidate is a negative.

The classifier's logit of an answer is beta r_i, as in DPO. Of positive and unlabeled answers the pairwise risk of
positives against negatives is R_PU - pi R_PP, over 1 - pi (Sakai et al. 2018, section 3.1). Here
1. R_PP is estimated from the group's own candidates by their posterior w_i, as one prompt has one anchor. Then
   R_PU - pi R_PP is the mean of (1 - w_i) l(r_a - r_i): at least 0, the clip of Kiryo et al. 2017 is never needed.
2. It is not divided by 1 - pi: a group of good candidates has little to teach, not as much as any other.
3. nll * NLL of the anchor, per token, as in spin.py.
A candidate of posterior 1 has no gradient; with posteriors of 0 this is SPIN.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from pudistill_cli.method.objectives import GroupArrays
from pudistill_cli.method.objectives.terms import anchor_over_candidates, nll, ratio


@dataclass(frozen=True, slots=True)
class PuDpo:
    """-(1 - w_i) log sigmoid(beta (r_anchor - r_i)), mean over a group's candidates, then over groups."""

    name: ClassVar[str] = "pu-dpo"
    reference: ClassVar[Literal["sft", "round"]] = "round"
    ranks: ClassVar[bool] = False
    distils = False
    needs_posterior = True

    beta: float = 0.1
    nll: float = 0.2

    def loss(self, xp: Any, logp: Any, arrays: GroupArrays) -> tuple[Any, dict[str, Any]]:
        """docs/method.md, "PU-DPO" (ours)."""
        negative = 1 - arrays.posterior  # (G, M)
        pair = anchor_over_candidates(xp, logp, arrays, self.beta, negative)
        anchor_nll = ratio(nll(xp, logp, arrays.mask, arrays.anchor), arrays.n_anchor_tokens)
        candidate = arrays.member * (1 - arrays.anchor)
        metrics = {
            "pair": pair,
            "nll": anchor_nll,
            "negative": ratio(xp.sum(candidate * negative), arrays.n_candidates),
        }
        return pair + self.nll * anchor_nll, metrics
