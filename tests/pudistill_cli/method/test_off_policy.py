"""The gap between sampler and learner, on numbers that can be checked by hand."""

from __future__ import annotations

import numpy as np
import pytest

from pudistill_cli.method.off_policy import Gap, sampler_gap, truncated_weights


def floats(*values: float) -> np.ndarray:
    return np.array(values, np.float32)


def test_equal_policies_have_no_gap() -> None:
    drawn = [floats(-1.0, -0.25), floats(-3.5)]
    assert sampler_gap(drawn, drawn) == Gap(0.0, 0.0, 1.0)


def test_two_candidates_by_hand() -> None:
    """log w = (ln 3, 0), so w = (3, 1): (3 + 1)^2 / (9 + 1) / 2 = 0.8; differences ln 3, 0.5, 0.5."""
    gap = sampler_gap([floats(-2.0), floats(-1.0, -1.0)], [floats(-2.0 + np.log(3)), floats(-0.5, -1.5)])
    assert gap.ess == pytest.approx(0.8, rel=1e-6)
    assert gap.maximum == pytest.approx(np.log(3), rel=1e-6)
    assert gap.mean == pytest.approx((np.log(3) + 1) / 3, rel=1e-6)


def test_one_candidate_that_carries_all_the_weight() -> None:
    """Three of four weigh nothing: a quarter is left. Weights beyond float64 do not overflow."""
    gap = sampler_gap([floats(-900.0)] + [floats(-1.0)] * 3, [floats(0.0)] + [floats(-1.0)] * 3)
    assert gap.ess == pytest.approx(0.25)


@pytest.mark.parametrize(
    ("gap", "large"), [(Gap(0.04, 3.0, 0.6), False), (Gap(0.06, 0.1, 0.9), True), (Gap(0.01, 0.1, 0.4), True)]
)
def test_a_large_gap_is_one_past_a_threshold(gap: Gap, large: bool) -> None:
    assert gap.large is large


def test_weights_are_ratios_of_whole_answers_of_at_most_one() -> None:
    """Half as likely now; twice as likely counts once; a difference beyond float64 leaves nothing."""
    then = [floats(-1.0, -0.5), floats(-1.0), floats(-1.0)]
    now = [floats(-1.0 - np.log(4), -0.5 + np.log(2)), floats(-1.0 + np.log(2)), floats(-1000.0)]
    assert truncated_weights(then, now) == pytest.approx([0.5, 1.0, 0.0], rel=1e-6)
