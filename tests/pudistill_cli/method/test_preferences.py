"""Label distributions, advantages and pairs, by hand and under every small group that hypothesis finds."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pudistill_cli.method.preferences import (
    PreferenceSettings,
    ScoredGroup,
    center,
    group_scale,
    identities,
    round_targets,
    run_deviation,
    targets,
)

DEFAULT = PreferenceSettings()
OUT = PreferenceSettings(anchor="out")


def group(scores: list[float], identity: list[int] | None = None, cut: tuple[int, ...] = (), votes=None) -> ScoredGroup:
    truncated = np.zeros(len(scores), dtype=bool)
    truncated[list(cut)] = True
    ids = np.array(identity if identity is not None else range(len(scores)), dtype=np.int64)
    return ScoredGroup(np.array(scores, dtype=np.float64), ids, truncated, votes)


@st.composite
def scored_groups(draw: st.DrawFn) -> ScoredGroup:
    rows = draw(st.integers(2, 7))
    scores = draw(st.lists(st.integers(-20, 20), min_size=rows, max_size=rows))
    identity = draw(st.lists(st.integers(0, 3), min_size=rows, max_size=rows))
    cut = [i for i in range(rows - 1) if draw(st.booleans())]
    return group([s / 4 for s in scores], identity, tuple(cut))


def test_identities_number_distinct_answers():
    assert identities([(1, 2), (3,), (1, 2), (1, 2, 0), (3,)]).tolist() == [0, 1, 0, 2, 1]


def test_center_divides_by_the_larger_deviation():
    """Deviation of (0, 2, 4) is sqrt(8/3); half a run's deviation of 10 is larger."""
    scores = np.array([0.0, 2.0, 4.0])
    assert group_scale(scores, 0.0) == pytest.approx(np.sqrt(8 / 3))
    np.testing.assert_allclose(center(scores, 1.0), np.array([-2, 0, 2]) / np.sqrt(8 / 3))
    np.testing.assert_allclose(center(scores, 10.0), np.array([-2, 0, 2]) / 5)


def test_run_deviation_pools_centred_scores():
    """Centred: (-1, 1) and (-3, 0, 3), the truncated row and the anchors left out: sqrt(20 / 5)."""
    groups = [group([0, 2, 100]), group([1, 4, 7, 50, 100], cut=(3,))]
    assert run_deviation(groups, OUT) == pytest.approx(2.0)


def test_label_distribution_by_hand():
    """z = (-1, 0, 1) sqrt(3/2); the anchor counts by its own score."""
    found = targets(group([1, 2, 3]), DEFAULT, 0.0)
    weight = np.exp(np.array([-1, 0, 1]) * np.sqrt(1.5) / 0.5)
    np.testing.assert_allclose(found.label, weight / weight.sum())
    np.testing.assert_allclose(found.advantage, np.array([-1, 0, 1]) * np.sqrt(1.5))


def test_duplicates_share_a_slot():
    """Three equal candidates have together the mass that one of them would have."""
    one = targets(group([1, 2, 9]), OUT, 4.0)
    three = targets(group([1, 2, 2, 2, 9], [0, 1, 1, 1, 2]), OUT, 4.0)
    assert three.slots.tolist() == [1, 1 / 3, 1 / 3, 1 / 3, 1]
    assert three.label[1:4].sum() == pytest.approx(one.label[1])


def weighed(scores: list[float], weight: list[float], cut: tuple[int, ...] = ()) -> ScoredGroup:
    return replace(group(scores, cut=cut), weight=np.array(weight))


def test_an_earlier_answer_has_its_weight_of_a_slot():
    """Half a slot: half the mass it would have, against the others as they were."""
    whole = targets(group([1, 2, 3, 9]), OUT, 100.0)
    half = targets(weighed([1, 2, 3, 9], [1, 1, 0.5, 1]), OUT, 100.0)
    assert half.member.tolist() == [1, 1, 0.5, 0]
    assert half.slots.tolist() == [1, 1, 0.5, 1]
    expected = whole.label * [1, 1, 0.5, 0]
    np.testing.assert_allclose(half.label, expected / expected.sum())


def test_an_answer_of_no_weight_is_no_member():
    found = targets(weighed([1, 2, 9, 3], [1, 1, 0, 1]), DEFAULT, 0.0)
    without = targets(group([1, 2, 3]), DEFAULT, 0.0)
    assert found.label[[0, 1, 3]].tolist() == without.label.tolist()
    assert found.advantage[[0, 1, 3]].tolist() == without.advantage.tolist()
    assert (found.label[2], found.advantage[2], found.member[2]) == (0, 0, 0)
    assert not targets(weighed([1, 2, 3], [1, 0, 1], cut=(0,)), OUT, 1.0).member.any()


def test_equal_candidates_get_their_mean_score():
    found = targets(group([1.0, 1.0 + 1e-7, 5.0], [0, 0, 1]), OUT, 0.0)
    assert found.advantage.tolist() == [0, 0, 0]
    assert found.label.tolist() == [0.5, 0.5, 0]


def test_anchor_modes():
    scores = [0.0, 1.0, -5.0]
    assert targets(group(scores), OUT, 2.0).member.tolist() == [1, 1, 0]
    best = targets(group(scores), PreferenceSettings(anchor="best"), 2.0)
    np.testing.assert_allclose(best.advantage, np.array([-5, 1, 4]) / 6)  # scores 0, 1, 1.5 over half of 2
    assert targets(group(scores), DEFAULT, 2.0).advantage[-1] < 0


def test_pairs():
    found = targets(group([3, 1, 2, 9]), DEFAULT, 0.0)
    assert found.pairs.tolist() == [[0, -1, 0, 1], [1, -1, 0, 0]]
    assert found.pair_weight.tolist() == [1, 1]
    same_as_worst = targets(group([3, 1, 2, 9], [0, 1, 2, 1]), DEFAULT, 0.0)
    assert same_as_worst.pairs.tolist() == [[1, -1, 0, 0]]
    near = targets(group([1.1, 1, 9]), OUT, 2.0)  # 0.1 of a deviation of 1: below the margin
    assert near.pairs.tolist() == [[0, -1, 1]]
    cut = targets(group([3, 1, 2, 9], cut=(1,)), DEFAULT, 0.0)
    assert cut.pairs.tolist() == [[0, 0, -1, 1], [1, 0, -1, 0]]


def test_smoothing_is_the_share_of_scorers_that_disagree():
    """Of two scorers one ties on the first pair and contradicts the second (capped); then one of five."""
    votes = np.array([[3, 1, 2, 9], [0, 1, 2, 0], [0, 1, 2, 1]], dtype=np.float64)
    found = targets(group([3, 1, 2, 9], votes=votes[[0, 2]]), DEFAULT, 0.0)
    assert found.pair_smoothing.tolist() == [0.25, 0.4]
    assert targets(group([3, 1, 2, 9], votes=votes[[0, 0, 0, 0, 1]]), DEFAULT, 0.0).pair_smoothing.tolist() == (
        pytest.approx([0.2, 0.2])
    )


def test_all_truncated_has_no_members():
    found = targets(group([1, 2, 9], cut=(0, 1)), DEFAULT, 1.0)
    assert not found.member.any()
    assert not found.label.any()
    assert found.pairs.shape == (0, 3)
    assert found.anchor.tolist() == [0, 0, 1]


def test_round_targets_share_the_deviation():
    groups = [group([0, 0.01, 0]), group([-10, 10, 0])]
    near, far = round_targets(groups, OUT)
    assert np.abs(near.advantage).max() < 0.01 < np.abs(far.advantage).max()


@settings(max_examples=60, deadline=None)
@given(scored_groups(), st.integers(-1000, 1000), st.sampled_from(["score", "best", "out"]))
def test_shifting_the_scores_changes_nothing(scored: ScoredGroup, shift: int, anchor: str):
    preference = PreferenceSettings(anchor=anchor)
    moved = ScoredGroup(scored.scores + shift, scored.identity, scored.truncated)
    assert run_deviation([moved], preference) == pytest.approx(run_deviation([scored], preference), abs=1e-9)
    one, two = targets(scored, preference, 1.0), targets(moved, preference, 1.0)
    np.testing.assert_allclose(one.label, two.label, atol=1e-9)
    np.testing.assert_allclose(one.advantage, two.advantage, atol=1e-9)
    assert one.pairs.shape == two.pairs.shape


@settings(max_examples=60, deadline=None)
@given(scored_groups(), st.sampled_from(["score", "best", "out"]))
def test_label_is_a_distribution_over_members(scored: ScoredGroup, anchor: str):
    found = targets(scored, PreferenceSettings(anchor=anchor), 0.7)
    assert found.label.sum() == pytest.approx(float(found.member.any()))
    assert not found.label[found.member == 0].any()
    assert not (found.member * scored.truncated).any()
    assert found.advantage.sum() == pytest.approx(0, abs=1e-9)
    assert (found.pairs.sum(axis=1) == 0).all()
    assert not (found.pairs * scored.truncated).any()


def test_the_anchor_and_its_copies_are_positive_whatever_the_posterior():
    """Rows 0 and the anchor are one answer."""
    scored = group([1, 2, 3, 4], identity=[0, 1, 2, 0])
    assert targets(scored, DEFAULT, 0.0).posterior.tolist() == [1, 0, 0, 1]
    found = targets(replace(scored, posterior=np.array([0.2, 0.4, 0.9])), DEFAULT, 0.0)
    assert found.posterior.tolist() == [1, 0.4, 0.9, 1]
