"""What the paper claims of the method, as checks of one run: order, concentration, stability (docs/method.md; ours).

Kou et al. 2026 claim that the student orders its own answers consistently with the anchor in view, that the labels
concentrate on the better ones, and that training stays stable. A check holds or fails only where its 95 % interval
over prompts is wholly on one side of the threshold.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from pudistill_cli.method.statistics import Interval, bootstrap_mean, bootstrap_ratio, pair_accuracy, paired_difference

Array = NDArray[np.float64]

CHANCE = 0.5
"""Pair accuracy of a scorer that knows nothing."""
ROUNDING = 1e-9
"""Where nothing varies an interval has no width, and the last bit of a sum is on neither side."""


@dataclass(frozen=True, slots=True)
class Group:
    """The K candidates of a held-out prompt that came to an end, and what is true of them."""

    scores: Array
    """(K,) by the run's scorer, the anchor in view."""
    label: Array
    """(K,) of the label distribution d; the anchor's part is left out, so the sum may be below 1."""
    slots: Array
    """(K,) 1 / multiplicity, as in d."""
    quality: Array
    """(K,) the truth, higher is better."""


@dataclass(frozen=True, slots=True)
class Check:
    """One claim on one run."""

    value: Interval | None
    """None where there was nothing to measure."""
    groups: int
    """How many prompts it was measured on."""
    holds: bool | None
    """None: it cannot be told."""
    beside: Mapping[str, Interval] = field(default_factory=dict[str, Interval])
    """What the value is made of."""


def order(groups: Sequence[Group], seed: int) -> Check:
    """Share of the pairs within a group that the scores order as the truth does; above one half the claim holds.

    Pairs of equal truth are left out, and groups without another pair; equal scores count half.
    """
    accuracy = np.array([pair_accuracy(g.scores, g.quality) for g in groups], dtype=np.float64)
    measured = accuracy[np.isfinite(accuracy)]
    if not len(measured):
        return Check(None, 0, None)
    value = bootstrap_mean(measured, seed)
    return Check(value, len(measured), _side(value, CHANCE))


def concentration(groups: Sequence[Group], seed: int) -> Check:
    """How far d goes from uniform quality to that of the best candidate; above 0 the claim holds.

        sum over groups of (q_d - q_u) / sum over groups of (q_best - q_u)

    q_d is the mean quality under d renormalised over the candidates, q_u that under d of a scorer that tells nothing
    apart (duplicates share one slot in both), q_best the best candidate's by the truth. A group of equal quality adds
    0 to both sums: it is left out, so that no resample is 0 / 0.
    """
    varied = [g for g in groups if len(g.quality) and g.quality.max() > g.quality.min()]
    if not varied:
        return Check(None, 0, None)
    by_d = np.array([_mean(g.quality, g.label) for g in varied])
    uniform = np.array([_mean(g.quality, g.slots) for g in varied])
    best = np.array([float(g.quality.max()) for g in varied])
    value = bootstrap_ratio(by_d - uniform, best - uniform, seed)
    beside = {"uniform": uniform, "d": by_d, "best": best}
    return Check(value, len(varied), _side(value, 0.0), {k: bootstrap_mean(v, seed) for k, v in beside.items()})


def stability(sft: Sequence[float], rounds: Mapping[str, Sequence[float]], seed: int) -> Check:
    """Paired gain over SFT of the round whose interval ends lowest; the claim holds unless it ends below 0.

    Values are per held-out prompt, the same ones in the same order; `beside` has the gain of every round.
    """
    if not len(sft) or not rounds:
        return Check(None, 0, None)
    gains = {name: paired_difference(values, sft, seed) for name, values in rounds.items()}
    worst = min(gains.values(), key=lambda gain: gain.high)
    return Check(worst, len(sft), worst.high >= 0, gains)


def _mean(quality: Array, weight: Array) -> float:
    return float((quality * weight).sum() / weight.sum())


def _side(value: Interval, threshold: float) -> bool | None:
    """True above, False below, None where the interval includes the threshold."""
    return True if value.low > threshold + ROUNDING else False if value.high < threshold - ROUNDING else None
