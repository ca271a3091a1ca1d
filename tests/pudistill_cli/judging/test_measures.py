"""Each figure against a number worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pudistill_cli.judging.auc import auc_interval, weighted_auc
from pudistill_cli.judging.measures import above_median, clustered, measure, order_consistency


def array(*values: float) -> np.ndarray:
    return np.array(values, dtype=np.float64)


def test_order_consistency_is_the_share_of_pairs_decided_alike() -> None:
    """0 beats 1 in both orders; of 0 and 2 the first shown wins; 2 beats 1 in both orders."""
    first = np.array([[0, 2, 1], [-1, 0, -3], [1, 4, 0]], dtype=np.float64)
    assert order_consistency(first) == pytest.approx(2 / 3)


def test_a_candidate_is_positive_above_the_median_and_a_tie_at_it_says_nothing() -> None:
    labels = above_median([array(1, 5), array(3, 3), array(2, 4)])  # median 3
    np.testing.assert_array_equal(labels, [[0, 1], [np.nan, np.nan], [0, 1]])


def test_where_most_are_best_the_best_is_positive() -> None:
    np.testing.assert_array_equal(above_median([array(5, 5, 1), array(5, 4, 5)]), [[1, 1, 0], [1, 0, 1]])


def test_auc_is_the_share_of_pairs_of_both_classes_a_tie_being_half() -> None:
    """Positives 3 and 1, negatives 1 and 2: 3 beats both, 1 ties the one and loses to the other: 2.5 of 4."""
    found = auc_interval(["a", "b"], [array(3, 1), array(1, 2)], [array(1, 0), array(1, 0)], seed=0)
    assert found is not None
    assert found.mean == 2.5 / 4
    assert found.low <= found.mean <= found.high


def test_auc_leaves_out_what_has_no_label_and_is_nothing_with_one_class() -> None:
    scores, labels = [array(3, 1), array(9, 9)], [array(1, 0), array(np.nan, np.nan)]
    found = auc_interval(["a", "b"], scores, labels, seed=0)
    assert found is not None
    assert found.mean == 1
    assert auc_interval(["a"], [array(1, 2)], [array(0, 0)], seed=0) is None


@given(st.lists(st.tuples(st.integers(0, 5), st.booleans(), st.integers(0, 3)), min_size=2, max_size=30))
def test_weighted_auc_is_that_of_the_repeated_candidates(rows: list[tuple[int, bool, int]]) -> None:
    score, label, weight = (np.array(column, dtype=np.float64) for column in zip(*rows, strict=True))
    rank = np.unique(score, return_inverse=True)[1]
    positive = np.repeat(score[label == 1], weight[label == 1].astype(int))
    negative = np.repeat(score[label == 0], weight[label == 0].astype(int))
    wins = np.sign(positive[:, None] - negative[None, :])
    found = weighted_auc(rank, label, weight)
    if wins.size:
        assert found == pytest.approx(((wins + 1) / 2).mean())
    else:
        assert np.isnan(found)


def test_a_prompt_counts_once_however_many_groups_it_has() -> None:
    """Prompt a has (1 + 0) / 2, b has 1: .75. The group without a value does not count."""
    found = clustered(["a", "b", "a", "c"], array(1, 1, 0, np.nan), seed=0)
    assert found is not None
    assert found.mean == 0.75
    assert clustered(["a"], array(np.nan), seed=0) is None


def test_the_bootstrap_draws_prompts_and_not_groups() -> None:
    """One prompt with many groups: drawing it again and again gives the same mean."""
    found = clustered(["a"] * 20, np.arange(20, dtype=np.float64), seed=0)
    assert found is not None
    assert (found.low, found.high) == (9.5, 9.5)
    scores, labels = [array(2, 1), array(1, 2)] * 5, [array(1, 0)] * 10
    auc = auc_interval(["a"] * 10, scores, labels, seed=0)
    assert auc is not None
    assert auc.low == auc.high == auc.mean == 0.5


def test_measures_of_a_judge_that_loves_length() -> None:
    """It is right in the first group and wrong in the second; the third has no unequal grades."""
    lengths = [array(1, 2), array(5, 3), array(2, 9)]
    grades = [array(0, 1), array(0, 1), array(1, 1)]
    found = measure(["a", "b", "c"], lengths, grades, lengths)
    assert found.groups == 2
    assert found.accuracy is not None
    assert found.kendall is not None
    assert found.length is not None
    assert (found.accuracy.mean, found.kendall.mean, found.length.mean) == (0.5, 0.0, 1.0)
