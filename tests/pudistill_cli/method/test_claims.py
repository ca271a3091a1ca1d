"""Each check against numbers worked out by hand, and on which side of its threshold it says a claim is."""

from __future__ import annotations

import numpy as np
import pytest

from pudistill_cli.method.claims import Check, Group, concentration, order, stability
from pudistill_cli.method.preferences import PreferenceSettings, ScoredGroup, identities, targets


def group(scores: list[float], quality: list[float], label: list[float] | None = None) -> Group:
    """Candidates that all differ; labels are uniform unless given."""
    arrays = scores, label or [1.0] * len(scores), [1.0] * len(scores), quality
    return Group(*(np.array(values, dtype=np.float64) for values in arrays))


RIGHT, WRONG = group([2, 1], [1, 0]), group([1, 2], [1, 0])


def test_order_counts_pairs_of_unequal_truth_group_by_group() -> None:
    """Truth 1 > 0 = 0 are two pairs, of which the scores have one right; the second group has none; the third is 1."""
    found = order([group([2, 1, 3], [1, 0, 0]), group([2, 1], [1, 1]), RIGHT], seed=0)
    assert found.value is not None
    assert found.value.mean == pytest.approx((1 / 2 + 1) / 2)
    assert found.groups == 2


@pytest.mark.parametrize(("right", "wrong", "holds"), [(60, 20, True), (20, 60, False), (21, 20, None), (0, 0, None)])
def test_order_holds_only_beyond_the_interval(right: int, wrong: int, holds: bool | None) -> None:
    """80 coins have a deviation of .056: three quarters are beyond chance, 21 of 41 are not."""
    assert order([RIGHT] * right + [WRONG] * wrong, seed=0).holds is holds


def test_concentration_is_a_ratio_of_sums_over_groups_where_something_differs() -> None:
    """(q_d, q_u, q_best): (.8, .5, 1) and (.2, .25, 1), so (.3 - .05) / (.5 + .75) = .2; the third adds nothing."""
    groups = [
        group([0, 0], [1, 0], label=[0.8, 0.2]),
        group([0, 0, 0, 0], [1, 0, 0, 0], label=[0.2, 0.3, 0.3, 0.2]),
        group([0, 0], [1, 1], label=[0.9, 0.1]),
    ]
    found = concentration(groups, seed=0)
    assert found.value is not None
    assert found.value.mean == pytest.approx(0.2)
    assert found.groups == 2
    assert {name: interval.mean for name, interval in found.beside.items()} == pytest.approx(
        {"uniform": 0.375, "d": 0.5, "best": 1.0}
    )


def test_the_anchor_s_part_of_the_labels_is_left_out() -> None:
    """Half of d is the anchor's: .4 and .1 are four fifths and one."""
    assert concentration([group([0, 0], [1, 0], label=[0.4, 0.1])], seed=0).beside["d"].mean == pytest.approx(0.8)


def test_a_scorer_that_tells_nothing_apart_concentrates_by_0_whatever_is_drawn_twice() -> None:
    """The right answer three times, one of them the anchor's own words: over samples it would look like a loss."""
    answers = [(1, 9), (1, 9), (1, 9), (2, 9), (3, 9), (1, 9)]
    scored = ScoredGroup(np.zeros(6), identities(answers), np.zeros(6, dtype=bool))
    d = targets(scored, PreferenceSettings(), run_deviation=1.0)
    found = concentration([Group(np.zeros(5), d.label[:-1], d.slots[:-1], np.array([1.0, 1, 1, 0, 0]))], seed=0)
    assert found.value is not None
    assert found.value.mean == pytest.approx(0, abs=1e-12)
    assert found.holds is None


@pytest.mark.parametrize(("label", "holds"), [([0.9, 0.1], True), ([0.1, 0.9], False)])
def test_concentration_holds_above_0(label: list[float], holds: bool) -> None:
    assert concentration([group([0, 0], [1, 0], label=label)] * 20, seed=0).holds is holds


def test_nothing_to_measure_cannot_be_told() -> None:
    level = [group([2, 1], [1, 1]), group([], [])]
    assert order(level, seed=0) == concentration(level, seed=0) == Check(None, 0, None)
    assert stability([], {"round-1": []}, seed=0) == stability([0.5], {}, seed=0) == Check(None, 0, None)


SFT = [0.0, 1.0] * 50
BEHIND = [value - 0.2 for value in SFT]
"""By the same on every prompt: its paired interval has no width."""
LEVEL = SFT[::-1]
"""Differences of +1 and -1 in turn: mean 0, deviation .1."""
AHEAD = [value + 0.3 for value in SFT]


@pytest.mark.parametrize(
    ("rounds", "mean", "holds"),
    [
        ({"round-1": AHEAD, "round-2": LEVEL}, 0.0, True),
        ({"round-1": BEHIND, "round-2": AHEAD}, -0.2, False),
        ({"round-1": AHEAD}, 0.3, True),
    ],
)
def test_one_round_wholly_below_sft_is_enough(rounds: dict[str, list[float]], mean: float, holds: bool) -> None:
    found = stability(SFT, rounds, seed=0)
    assert found.value is not None
    assert found.value.mean == pytest.approx(mean)
    assert found.holds is holds
    assert found.groups == 100
    assert found.beside.keys() == rounds.keys()
