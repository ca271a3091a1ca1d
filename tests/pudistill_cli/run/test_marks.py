"""The marks of a run's progress: their names, and the stage each belongs to."""

from __future__ import annotations

import pytest

from pudistill_cli.config.stages import Stage
from pudistill_cli.run.marks import Mark


@pytest.mark.parametrize(
    ("name", "mark", "of", "stage"),
    [
        ("rewrites", Mark.REWRITES_GATE, "", Stage.SFT),
        ("sft", Mark.SFT, "", Stage.SFT),
        ("sft/student-3", Mark.STUDENT, "3", Stage.SFT),
        ("rank", Mark.GATES, "", Stage.RANK),
        ("gates/round-2", Mark.ROUND_GATES, "2", Stage.PREFER),
        ("round-2", Mark.ROUND, "2", Stage.PREFER),
        ("round-2/prior", Mark.ROUND_PRIOR, "2", Stage.PREFER),
        ("rounds-end", Mark.ROUNDS_END, "", Stage.EVAL),
        ("dev/round-2", Mark.DEV, "round-2", Stage.EVAL),
        ("eval", Mark.EVAL, "", Stage.EVAL),
        ("export/gguf-q8_0", Mark.EXPORT, "gguf-q8_0", Stage.EXPORT),
    ],
)
def test_a_mark_and_its_name(name: str, mark: Mark, of: str, stage: Stage) -> None:
    assert Mark.named(name) is mark
    assert mark(of) == name
    assert mark.stage is stage
    if of:
        assert mark.of(name) == of


def test_every_mark_is_found_by_its_name() -> None:
    assert [Mark.named(mark(7)) for mark in Mark] == list(Mark)


@pytest.mark.parametrize("name", ["", "prompts", "round-", "round-1/more", "exports/hf"])
def test_a_name_of_no_mark_is_refused(name: str) -> None:
    with pytest.raises(KeyError):
        Mark.named(name)
