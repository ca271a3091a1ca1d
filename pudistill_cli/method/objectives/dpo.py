"""DPO over the pairs of a group, with NLL on the chosen answer.

Departures from Rafailov et al. 2023:
1. A pair's label is smoothed by how much the scorers disagree on it (conservative DPO, Mitchell 2023).
2. nll * NLL of the chosen answer, mean over tokens, keeps its absolute likelihood up (Pang et al. 2024, there
   mean over answers).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from pudistill_cli.method.objectives import GroupArrays
from pudistill_cli.method.objectives.terms import log_ratio, nll, ratio
from pudistill_cli.method.xp import softplus


@dataclass(frozen=True, slots=True)
class Dpo:
    """-log sigmoid(beta (r_chosen - r_rejected)) + nll * NLL(chosen), mean over the step's pairs."""

    name: ClassVar[str] = "dpo"
    reference: ClassVar[Literal["sft", "round"]] = "sft"
    ranks: ClassVar[bool] = True
    distils = False
    needs_posterior = False

    beta: float = 0.1
    nll: float = 0.2

    def loss(self, xp: Any, logp: Any, arrays: GroupArrays) -> tuple[Any, dict[str, Any]]:
        """Rafailov et al. 2023, eq. 7.

        Equal to trl's `loss_type=["sigmoid", "sft"]` with `loss_weights=[1, nll]`.
        """
        rows = log_ratio(xp, logp, arrays)  # (G, M)
        margin = self.beta * xp.sum(arrays.pairs * rows[:, None, :], axis=-1)  # (G, P)
        smoothing = arrays.pair_smoothing
        per_pair = (1 - smoothing) * softplus(xp, -margin) + smoothing * softplus(xp, margin)
        pair = ratio(xp.sum(arrays.pair_weight * per_pair), arrays.n_pairs)

        chosen = xp.sum(arrays.pair_weight[:, :, None] * (arrays.pairs > 0), axis=1)  # (G, M)
        chosen_nll = ratio(nll(xp, logp, arrays.mask, chosen), arrays.n_chosen_tokens)
        metrics = {
            "pair": pair,
            "nll": chosen_nll,
            "margin": ratio(xp.sum(arrays.pair_weight * margin), arrays.n_pairs),
            "accuracy": ratio(xp.sum(arrays.pair_weight * (margin > 0)), arrays.n_pairs),
        }
        return pair + self.nll * chosen_nll, metrics
