"""Learning-rate schedule and batch order, by hand."""

from __future__ import annotations

import pytest

from pudistill_cli.stages.schedule import learning_rate, shuffled_batches


def test_warm_up_then_decay_to_a_tenth() -> None:
    rates = [learning_rate(1.0, step, total=10, warmup=2) for step in range(10)]
    # step 0: ramp 1/2, decay 1; step 1: ramp 1, decay 0.1 + 0.9 * 0.9; step 5: 0.1 + 0.9 / 2; step 9: 0.1 + 0.09
    assert rates[0] == pytest.approx(0.5)
    assert rates[1] == pytest.approx(0.91)
    assert rates[5] == pytest.approx(0.55)
    assert rates[9] == pytest.approx(0.19)


def test_a_constant_schedule_only_warms_up() -> None:
    rates = [learning_rate(2.0, step, total=4, warmup=2, schedule="constant") for step in range(4)]
    assert rates == [1.0, 2.0, 2.0, 2.0]


def test_batches_hold_every_item_once_in_an_order_of_the_key_alone() -> None:
    first = list(shuffled_batches(range(10), 4, 7, 0, 1))
    assert [len(b) for b in first] == [4, 4, 2]
    assert sorted(i for b in first for i in b) == list(range(10))
    assert first == list(shuffled_batches(range(10), 4, 7, 0, 1))
    assert first != list(shuffled_batches(range(10), 4, 7, 0, 2))
