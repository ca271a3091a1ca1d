"""What a pass holds: a prompt once, and each answer behind it as long as the longest."""

from __future__ import annotations

import numpy as np
import pytest

from pudistill_cli.backend_api.contract import Row, TrainGroup
from pudistill_cli.backend_api.micro_batching import group_batches, pieces_of, rows_in_a_piece, tokens_of
from pudistill_cli.method.preferences import PreferenceSettings, ScoredGroup, identities, round_targets

PROMPT, ANSWER = 75, 40


def group(answers: list[int], prompt: int = PROMPT, view: int = 0) -> TrainGroup:
    rows = tuple(Row(tuple(range(prompt)), tuple(range(n))) for n in answers)
    count = len(answers)
    scored = ScoredGroup(
        scores=np.arange(float(count)),
        identity=identities([row.completion for row in rows]),
        truncated=np.zeros(count, dtype=bool),
        votes=None,
        posterior=None,
        weight=np.ones(count),
    )
    (targets,) = round_targets([scored], PreferenceSettings())
    drawn = tuple(np.zeros(n, dtype=np.float32) for n in answers)
    return TrainGroup(rows, drawn, drawn, targets, tuple(range(view)))


def test_a_prompt_counts_once_and_answers_with_their_padding():
    """75 + 5 · 40; two groups are padded to each other: 2 · 80 + 7 · 41; a view is longer than its prompt."""
    assert tokens_of([group([ANSWER] * 5)]) == 275
    assert tokens_of([group([40, 30, 20, 10, 1]), group([41, 41], prompt=80)]) == 447
    assert tokens_of([group([ANSWER] * 5, view=120)]) == 320


@pytest.mark.parametrize(("budget", "sizes"), [(274, [1, 1, 1]), (549, [1, 1, 1]), (550, [2, 1]), (825, [3])])
def test_groups_are_together_as_long_as_they_fit(budget: int, sizes: list[int]):
    assert [len(batch) for batch in group_batches([group([ANSWER] * 5)] * 3, budget)] == sizes


@pytest.mark.parametrize(("budget", "rows"), [(1, 1), (114, 1), (155, 2), (235, 4)])
def test_the_pieces_of_a_group_fit_behind_its_prompt(budget: int, rows: int):
    """75 + n · 40; one row at least, however long it is."""
    large = group([ANSWER] * 5)
    assert rows_in_a_piece([large], budget) == rows
    for piece in pieces_of([large], rows):
        assert PROMPT + ANSWER * len(piece.answers) <= max(budget, PROMPT + ANSWER)
