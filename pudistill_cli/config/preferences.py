"""The recipe's `prefer`: candidates, and the preferences that their scores become."""

from __future__ import annotations

from typing import Annotated

from pydantic import model_validator

from pudistill_cli.config.fields import (
    Auto,
    Count,
    Flag,
    GroupSize,
    Natural,
    NonNegative,
    Positive,
    PositiveHeat,
    PositiveShare,
    Rounds,
    Section,
    Share,
)
from pudistill_cli.config.stages import Stage


class PreferSettings(Section):
    """Stage 2: candidates, and the preferences that their scores become."""

    k: Annotated[GroupSize, Stage.PREFER] = 4
    k_min: Annotated[GroupSize | None, Stage.PREFER] = None
    """Draw so many for the half of the prompts whose last group's scores differed least; None draws k for all."""
    reuse: Annotated[Rounds, Stage.PREFER] = 0
    """Rounds back whose answers join the group where this round did not draw them again, weighed by how likely they
    still are (stages/reuse.py)."""
    rounds: Annotated[Rounds, Stage.PREFER] = 4
    temperature: Annotated[PositiveHeat, Stage.PREFER] = 1.0
    top_p: Annotated[PositiveShare, Stage.PREFER] = 1.0
    top_k: Annotated[Natural, Stage.PREFER] = 0
    """0 is off."""
    max_new_tokens: Annotated[Count | Auto, Stage.SFT] = "auto"
    """"auto" is the anchors' 95th percentile x 1.3, within the context."""
    tau: Annotated[Positive, Stage.PREFER] = 0.5
    """Temperature of the label distribution."""
    anchor_in_group: Annotated[Flag, Stage.PREFER] = True
    margin: Annotated[NonNegative, Stage.PREFER] = 0.3
    """Least difference of scores, in deviations, that makes a DPO pair."""
    prompts_per_round: Annotated[Count | None, Stage.PREFER] = None
    prior_start: Annotated[Share, Stage.PREFER] = 0.3
    """Rounds start unless the share of candidates as good as the anchor is surely below this (95 % interval)."""
    prior_stop: Annotated[Share, Stage.PREFER] = 0.95
    """They end when it is surely above this."""

    @model_validator(mode="after")
    def _parts_of_a_group(self) -> PreferSettings:
        if self.k_min is not None and self.k_min > self.k:
            raise ValueError(f"`k_min` is {self.k_min}, more than the {self.k} of `k`")
        if self.reuse and (self.temperature, self.top_p, self.top_k) != (1.0, 1.0, 0):
            raise ValueError(
                "`reuse` weighs answers by the policy's own probabilities: leave temperature, top_p and top_k"
            )
        return self
