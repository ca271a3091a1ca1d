"""Groups with nothing to teach: candidates that are all the same, and scores that are."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from pudistill_cli.method.objectives.registry import OBJECTIVES
from pudistill_cli.method.preferences import PreferenceSettings, ScoredGroup, round_targets
from pudistill_cli.stages.group_signal import Signal, signal_of, tell_signal


def group(scores: list[float], identity: list[int], cut: int = 0) -> ScoredGroup:
    """Rows are candidates, the first `cut` of them cut off, then the anchor."""
    truncated = np.arange(len(scores)) < cut
    return ScoredGroup(np.array(scores), np.array(identity), truncated)


def signal(*groups: ScoredGroup, anchor: Any = "score") -> Signal:
    return signal_of(groups, round_targets(groups, PreferenceSettings(anchor=anchor)))


def test_groups_that_have_collapsed_are_counted() -> None:
    spread = group([0.1, 0.2, 0.9], [0, 1, 2])
    alike = group([0.1, 0.1, 0.9], [0, 0, 1])  # the anchor is better than all of one answer: an order
    level = group([0.5, 0.5, 0.5], [0, 1, 2])
    copies = group([0.5, 0.5, 0.5], [0, 0, 0])  # the student says what the anchor says
    cut_off = group([0.1, 0.2, 0.9], [0, 1, 2], cut=2)
    assert signal(spread, alike, level, copies, cut_off) == Signal(groups=4, alike=2, level=2)
    assert not signal(spread, level).none
    assert signal(level, copies).none
    assert not signal(cut_off).none  # that is another end: all cut off


def test_without_the_anchor_in_the_group_candidates_that_are_alike_have_no_order() -> None:
    alike = group([0.1, 0.1, 0.9], [0, 0, 1])
    assert signal(alike, anchor="out") == Signal(groups=1, alike=1, level=1)


def test_equal_scores_of_different_groups_are_no_order_either() -> None:
    assert signal(group([0.1, 0.1, 0.1], [0, 1, 2]), group([0.9, 0.9, 0.9], [0, 1, 2])).none


def test_one_candidate_that_came_to_an_end_is_alike_with_itself() -> None:
    assert signal(group([0.1, 0.2, 0.9], [0, 1, 2], cut=1)) == Signal(groups=1, alike=1, level=0)


@pytest.mark.parametrize(
    ("found", "words"),
    [
        (Signal(10, 10, 10), "the candidates of each prompt are all the same answer; nothing is left to rank"),
        (Signal(10, 2, 10), "the candidates of each prompt all have the same score; nothing is left to rank"),
        (Signal(10, 6, 6), "in 6 of 10 groups no score differs; they teach nothing"),
        (Signal(10, 6, 2), "in 6 of 10 groups all candidates are the same answer"),
        (Signal(10, 5, 5), ""),
    ],
)
def test_what_is_said_of_it_and_what_to_change(found: Signal, words: str) -> None:
    warnings: list[str] = []
    job: Any = SimpleNamespace(
        metrics=lambda *given: None,
        console=SimpleNamespace(warn=warnings.append),
        folder=SimpleNamespace(name="run"),
        recipe=SimpleNamespace(prefer=SimpleNamespace(temperature=1.0, k=4)),
    )
    tell_signal(job, found, 2)
    if not words:
        assert warnings == []
        return
    (warning,) = warnings
    assert warning.startswith(f"Round 2: {words}")
    assert "--name run-2 --set prefer.temperature=1.3, or --name run-2 --set prefer.k=8" in warning


def test_objectives_say_whether_scores_decide_what_they_learn() -> None:
    """SPIN and PU-DPO have the anchor win, SDFT copies the judge: equal scores take nothing from them."""
    assert {name for name, objective in OBJECTIVES.items() if objective.ranks} == {"dpo", "grpo", "ldl-grpo", "rft"}
