"""SPIN, a baseline: the anchor beats every candidate, whatever its quality (Chen et al. 2024).

Departures:
1. All of a group's candidates are opponents of its anchor; their mean takes the place of a single opponent.
2. nll * NLL of the anchor, per token, as in dpo.py; 0 leaves the paper's loss.
A candidate equal to the anchor adds the constant log 2 and no gradient.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from pudistill_cli.method.objectives import GroupArrays
from pudistill_cli.method.objectives.terms import anchor_over_candidates, nll, ratio


@dataclass(frozen=True, slots=True)
class Spin:
    """-log sigmoid(beta (r_anchor - r_i)), mean over a group's candidates, then over groups."""

    name: ClassVar[str] = "spin"
    reference: ClassVar[Literal["sft", "round"]] = "round"
    ranks: ClassVar[bool] = False
    distils = False
    needs_posterior = False

    beta: float = 0.1
    nll: float = 0.2

    def loss(self, xp: Any, logp: Any, arrays: GroupArrays) -> tuple[Any, dict[str, Any]]:
        """Chen et al. 2024, eq. 4.7, with the logistic loss and the round's start as opponent."""
        pair = anchor_over_candidates(xp, logp, arrays, self.beta)
        anchor_nll = ratio(nll(xp, logp, arrays.mask, arrays.anchor), arrays.n_anchor_tokens)
        return pair + self.nll * anchor_nll, {"pair": pair, "nll": anchor_nll}
