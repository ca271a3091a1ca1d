"""The recipe's `sft` and `train`: supervised fine-tuning, and the preference update."""

from __future__ import annotations

import math
from dataclasses import asdict
from typing import Annotated, Any, Literal, cast

from pydantic import Field, PlainSerializer, PlainValidator

from pudistill_cli.config.fields import (
    Auto,
    Count,
    Few,
    Flag,
    Natural,
    NonNegative,
    Positive,
    PositiveHeat,
    PositiveShare,
    Rate,
    Section,
    Share,
)
from pudistill_cli.config.objective_settings import DEFAULT, objective_from
from pudistill_cli.config.stages import Stage
from pudistill_cli.method.objectives import Objective


class SftSettings(Section):
    """Stage 1: supervised fine-tuning on the anchors."""

    share: Annotated[Literal["all"] | PositiveShare, Stage.SFT] = "all"
    """Of the anchored prompts. Stage 2 takes those that SFT has not seen; with "all", both take all."""
    epochs: Annotated[Few | Auto, Stage.SFT] = "auto"
    """Of each student; `auto` trains until dev stops improving (docs/method.md)."""
    students: Annotated[Few | Auto, Stage.SFT] = "auto"
    """That are fine-tuned, each from a start of its own; the mean of what they learned is kept. `auto`: three up to
    half a million parameters, else one."""
    rewrites: Annotated[Flag | Auto, Stage.SFT] = "auto"
    """Train as often on what the base writes with the anchor in view (`rank.view`), another answer an epoch; `auto`
    where the student has up to half a million parameters and looks at the anchor."""
    rewrite_temperature: Annotated[PositiveHeat, Stage.SFT] = 0.3
    soft: Annotated[Share, Stage.SFT] = 0.5
    """Where there are rewrites: the share of the loss that is KL to the base with the anchor in view."""
    lr: Annotated[Rate | Auto, Stage.SFT] = "auto"
    """"auto" is `default_sft_lr` of the student's width."""
    batch: Annotated[Count | Auto, Stage.SFT] = "auto"
    """"auto" is `default_sft_batch` of the number of anchors: 4 to 16."""


def _as_setting(objective: Objective) -> dict[str, Any]:
    return {"name": objective.name, **asdict(cast("Any", objective))}


class TrainSettings(Section):
    """The preference update."""

    objective: Annotated[Objective, PlainValidator(objective_from), PlainSerializer(_as_setting), Stage.PREFER] = Field(
        default_factory=lambda: objective_from(DEFAULT)
    )
    lr: Annotated[Rate | Auto, Stage.PREFER] = "auto"
    """"auto" is `default_preference_lr` of the student's size."""
    groups_per_step: Annotated[Count, Stage.PREFER] = 16
    warmup_steps: Annotated[Natural, Stage.PREFER] = 5
    schedule: Annotated[Literal["linear", "constant"], Stage.PREFER] = "linear"
    clip_norm: Annotated[Positive, Stage.SFT] = 1.0
    weight_decay: Annotated[NonNegative, Stage.SFT] = 0.0


def default_preference_lr(n_parameters: int) -> float:
    """Peak rate of the preference stage for a student of this size (ours).

    1e-3 (N / 1e6)^-0.63, kept within [1e-5, 3e-4]: a power law through what works for LoRA at a million
    parameters (1e-3) and at half a billion (2e-5); from 1.5 billion up it is the 1e-5 of common practice. Above
    3e-4 greedy decoding suffers, whatever a small student gains at T = 1 (LOG.md).
    """
    return min(max(1e-3 * math.pow(n_parameters / 1e6, -0.63), 1e-5), 3e-4)
