"""Rejection-sampling fine-tuning, a baseline: NLL of each group's best candidate (Yuan et al. 2023)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from pudistill_cli.method.objectives import GroupArrays
from pudistill_cli.method.objectives.terms import nll, ratio
from pudistill_cli.method.xp import MASKED, amax


@dataclass(frozen=True, slots=True)
class Rft:
    """-log pi of the candidate with the highest score, summed over tokens, mean over groups; ties share."""

    name: ClassVar[str] = "rft"
    reference: ClassVar[Literal["sft", "round"]] = "round"
    ranks: ClassVar[bool] = True
    distils = False
    needs_posterior = False

    def loss(self, xp: Any, logp: Any, arrays: GroupArrays) -> tuple[Any, dict[str, Any]]:
        """The anchor is no candidate; a group without members adds nothing."""
        candidate = arrays.member * (1 - arrays.anchor)  # (G, M)
        advantage = xp.where(candidate > 0, arrays.advantage, MASKED)
        best = candidate * (advantage >= amax(xp, advantage))
        count = xp.sum(best, axis=-1, keepdims=True)
        weight = best / xp.where(count > 0, count, 1.0)
        loss = ratio(nll(xp, logp, arrays.mask, weight), arrays.n_groups)
        return loss, {"nll": loss}
