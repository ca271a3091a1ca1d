"""What `auto` means in the recipe's `sft`: rules by the student's size and the number of anchors (docs/method.md)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pudistill_cli.errors import UsageError

if TYPE_CHECKING:
    from pudistill_cli.config.training import SftSettings

SMALL_STUDENT = 500_000
"""Parameters up to which three students with rewrites are trained, above it one without. On one task three won at 0.2
million, and lost .04 at 0.7 million; above that they would take three to six times the minutes (LOG.md)."""
STUDENTS = 3
EPOCHS_WITHOUT_DEV = 6
"""Where too few dev anchors could tell when to stop."""
LARGEST_BATCH = 16
SMALLEST_BATCH = 4
STEPS_AN_EPOCH = 12
"""What the batch is chosen for, within its bounds: with few anchors, a large batch would leave too few steps."""


def default_sft_lr(width: int) -> float:
    """Peak rate of SFT for a student whose hidden states have `width` entries (ours).

    1e-3 (576 / width)^0.6: 3.3e-3 at 80, 2.2e-3 at 160 and 1e-3 at 576 are measured here (LOG.md); 4.7e-4 at 2,048 and
    3.1e-4 at 4,096 are near published practice for LoRA on billions of parameters: 5e-4 at 2,000, falling as
    width^-0.781, fits Llama models (Schulman et al. 2025, "LoRA Without Regret"); QLoRA takes 2e-4 at 7 and 13 billion
    parameters (Dettmers et al. 2023, arXiv 2305.14314).
    """
    return 1e-3 * math.pow(576 / width, 0.6)


def default_sft_batch(anchors: int) -> int:
    """The power of two nearest to a twelfth of the anchors, from 4 to 16."""
    nearest = 2 ** round(math.log2(max(1.0, anchors / STEPS_AN_EPOCH)))
    return min(LARGEST_BATCH, max(SMALLEST_BATCH, nearest))


def default_sft_students(parameters: int) -> int:
    """Three of a small student, else one."""
    return STUDENTS if parameters <= SMALL_STUDENT else 1


@dataclass(frozen=True, slots=True)
class SftShape:
    """`sft` with every `auto` resolved, except what is measured: whether rewrites pay, and how long to train."""

    students: int
    rewrites: bool | None
    """None asks the base (stages/rewrites.py)."""
    epochs: int | None
    """None asks dev (stages/sft_length.py)."""
    lr: float
    batch: int


def sft_shape(settings: SftSettings, *, parameters: int, width: int, anchors: int) -> SftShape:
    """The recipe's `sft` for a student of this size and so many anchors.

    Raises:
        UsageError: the rate is `auto`, and the student's config does not say its width.
    """
    if settings.lr == "auto" and width == 0:
        raise UsageError(
            "The student's config.json does not say how wide its hidden states are, and SFT's rate follows from that.",
            "Say the rate: --set sft.lr=5e-4",
        )
    rewrites = None if parameters <= SMALL_STUDENT else False
    return SftShape(
        students=default_sft_students(parameters) if settings.students == "auto" else settings.students,
        rewrites=rewrites if settings.rewrites == "auto" else settings.rewrites,
        epochs=None if settings.epochs == "auto" else settings.epochs,
        lr=default_sft_lr(width) if settings.lr == "auto" else settings.lr,
        batch=default_sft_batch(anchors) if settings.batch == "auto" else settings.batch,
    )
