"""LDL-GRPO as it might have been: what the sweeps compare the default with. What wins moves to the product."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from pudistill_cli.method.objectives import GroupArrays
from pudistill_cli.method.objectives.ldl_grpo import LdlGrpo
from pudistill_cli.method.objectives.registry import OBJECTIVES
from pudistill_cli.method.objectives.terms import ratio, sequence
from pudistill_cli.method.xp import stop_gradient


@dataclass(frozen=True, slots=True)
class FromSft(LdlGrpo):
    """Log-ratios against the SFT snapshot in every round."""

    name: ClassVar[str] = "ldl-grpo-from-sft"
    reference: ClassVar[Literal["sft", "round"]] = "sft"


@dataclass(frozen=True, slots=True)
class PerToken(LdlGrpo):
    """The group's distribution from log-ratios a token: r_i |y| / |y_i|, |y| the step's mean length."""

    name: ClassVar[str] = "ldl-grpo-per-token"

    def moved(self, xp: Any, logp: Any, arrays: GroupArrays) -> Any:
        """(G, M) log-ratios of answers of one length."""
        length = xp.sum(arrays.mask, axis=-1)
        mean = ratio(arrays.n_tokens, arrays.n_members)
        total = sequence(xp, logp - arrays.reference, arrays.mask)
        return total * mean / xp.where(length > 0, length, 1.0)


@dataclass(frozen=True, slots=True)
class Credit(LdlGrpo):
    """Token-level credit: r_i weighs a token by the difference that the anchor makes to it.

    w_t = 1 - credit + credit D_t / mean D, D_t = KL(pi || judge with the anchor in view) at token t of the answer, held
    fixed; w has mean 1 over an answer. The anchor's own tokens have no D and weigh 1.
    """

    name: ClassVar[str] = "ldl-grpo-credit"

    credit: float = 0.5

    @property
    def distils(self) -> bool:
        """The judge's distributions are read."""
        return True

    def moved(self, xp: Any, logp: Any, arrays: GroupArrays) -> Any:
        """(G, M) weighted log-ratios."""
        divergence = stop_gradient(xp, arrays.divergence) * arrays.mask  # (G, M, T)
        total, length = xp.sum(divergence, axis=-1), xp.sum(arrays.mask, axis=-1)  # (G, M)
        known = total > 0
        mean = xp.where(known, total, 1.0) / xp.where(length > 0, length, 1.0)
        share = xp.where(known[:, :, None], divergence / mean[:, :, None], 1.0)
        weight = 1 - self.credit + self.credit * share
        return sequence(xp, weight * (logp - arrays.reference), arrays.mask)


VARIANTS = (FromSft, PerToken, Credit)


def offer() -> None:
    """Let recipes of this process name the variants."""
    OBJECTIVES.update({variant.name: variant for variant in VARIANTS})
