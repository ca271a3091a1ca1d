"""Intervals against the normal theory they must approach, tau-b against values worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest

from pudistill_cli.method.statistics import (
    betting_interval,
    bootstrap_mean,
    bootstrap_ratio,
    kendall_tau_b,
    pair_accuracy,
    paired_difference,
)


def test_interval_of_a_mean_is_the_normal_one():
    """Deviation 1 over 400 prompts: mean -+ 1.96 / 20."""
    values = np.random.default_rng(0).normal(size=400)
    values = (values - values.mean()) / values.std()
    found = bootstrap_mean(values, seed=1)
    assert found.mean == pytest.approx(0, abs=1e-12)
    assert (found.low, found.high) == pytest.approx((-0.098, 0.098), abs=0.008)
    assert bootstrap_mean(values, seed=1) == found


def test_prompts_are_the_clusters():
    """Ten equal samples a prompt say no more than one."""
    values = np.random.default_rng(0).normal(size=50)
    one, ten = bootstrap_mean(values, seed=2), bootstrap_mean(np.repeat(values[:, None], 10, axis=1), seed=2)
    assert (ten.mean, ten.low, ten.high) == pytest.approx((one.mean, one.low, one.high))


def test_paired_difference_cancels_the_prompts():
    prompts = np.random.default_rng(0).normal(scale=100, size=(60, 1))
    samples = prompts + np.array([[-1.0, 0.0, 1.0]])
    found = paired_difference(samples + 0.5, prompts[:, 0], seed=0)
    assert (found.mean, found.low, found.high) == pytest.approx((0.5, 0.5, 0.5))


def test_kendall_tau_b_by_hand():
    """Five concordant of six pairs: 4/6. One tie in a, its pair out of the numerator: 5 / sqrt(5 * 6)."""
    assert kendall_tau_b([1, 2, 3, 4], [1, 2, 4, 3]) == pytest.approx(4 / 6)
    assert kendall_tau_b([1, 1, 3, 4], [1, 2, 3, 4]) == pytest.approx(5 / np.sqrt(30))
    assert kendall_tau_b([1, 2, 3], [3, 2, 1]) == -1
    assert np.isnan(kendall_tau_b([1, 1, 1], [1, 2, 3]))


def test_pair_accuracy_by_hand():
    """Grades 3 > 2 = 2 are two pairs: the scores order the first rightly and tie the second."""
    assert pair_accuracy(np.array([5.0, 1.0, 5.0]), np.array([3.0, 2.0, 2.0])) == 0.75
    assert pair_accuracy(np.array([1.0, 2.0, 3.0]), np.array([3.0, 2.0, 1.0])) == 0
    assert np.isnan(pair_accuracy(np.array([1.0, 2.0]), np.array([4.0, 4.0])))


def test_ratio_of_means_by_hand():
    """(1 + 2 + 3) / (2 + 2 + 8) is a half, which the mean of the ratios, 1/2, 1 and 3/8, is not."""
    assert bootstrap_ratio([1, 2, 3], [2, 2, 8], seed=0).mean == pytest.approx(0.5)


def test_interval_of_a_ratio_is_the_delta_method_s():
    """Of a / b with mean b 1, the linearised deviation over 400 prompts is std(a - r b) / 20."""
    rng = np.random.default_rng(3)
    below = rng.uniform(0.5, 1.5, size=400)
    above = 0.6 * below + rng.normal(scale=0.5, size=400)
    found = bootstrap_ratio(above, below, seed=1)
    deviation = (above - found.mean * below).std() / below.mean() / 20
    assert (found.low, found.high) == pytest.approx(
        (found.mean - 1.96 * deviation, found.mean + 1.96 * deviation), abs=0.006
    )
    assert bootstrap_ratio(7 * below, below, seed=1) == bootstrap_ratio(7 * below, below, seed=2)  # no spread


# --- intervals that may be looked at ---


def test_a_betting_interval_by_hand():
    """n ones speak against a mean of m by the mean over b = 0, .1 … 1 of (1 + b (1 / m - 1))^n.

    At m = .8 that is 40.26 for 23 of them, and 33.28 for 22: 40 is what 95 % on two sides needs.
    """
    stakes = np.arange(11) / 10
    for n in (22, 23):
        found = betting_interval([1.0] * n, 0, 1)
        assert (found.mean, found.high) == (1, 1)
        assert (found.low >= 0.8) == (n == 23)
        capital = [float(np.mean((1 + stakes * (1 / m - 1)) ** n)) for m in (found.low, found.low + 0.001)]
        assert capital[0] >= 40 > capital[1]


def test_a_betting_interval_is_scaled_and_mirrored():
    x = np.array([0.0, 0.5, 1.0, 1.0] * 10)
    found, mirrored, scaled = (
        betting_interval(x, 0, 1),
        betting_interval(1 - x, 0, 1),
        betting_interval(2 * x - 1, -1, 1),
    )
    assert (mirrored.low, mirrored.high) == pytest.approx((1 - found.high, 1 - found.low))
    assert (scaled.mean, scaled.low, scaled.high) == pytest.approx(
        tuple(2 * v - 1 for v in (0.625, found.low, found.high))
    )


def test_a_betting_interval_holds_however_often_it_is_looked_at():
    """At every one of 100 prompts, of 400 runs: a 95 % interval is once beside the mean in 20 at most."""
    rng = np.random.default_rng(0)
    for p in (0.5, 0.8, 0.95):
        runs = (rng.random((400, 100)) < p).astype(float)
        stakes, x = np.linspace(0, 1, 11)[:, None, None], runs
        with np.errstate(divide="ignore"):
            up = np.exp(np.log1p(stakes * (x / p - 1)).cumsum(axis=2)).mean(axis=0)
            down = np.exp(np.log1p(stakes * ((1 - x) / (1 - p) - 1)).cumsum(axis=2)).mean(axis=0)
        outside = ((up >= 40) | (down >= 40)).any(axis=1)
        assert outside.mean() < 0.05
        for run, left in zip(runs[:20], outside, strict=False):
            ever = [betting_interval(run[:n], 0, 1) for n in range(5, 101, 5)]
            assert left or all(i.low <= p <= i.high for i in ever)


def test_a_betting_interval_of_nothing_says_nothing():
    found = betting_interval([], 0, 1)
    assert np.isnan([found.mean, found.low, found.high]).all()
    assert betting_interval([0.5], 0, 1).low < 0.01 < 0.99 < betting_interval([0.5], 0, 1).high
