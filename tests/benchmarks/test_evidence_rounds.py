"""What a round was worth, on a ledger made by hand."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from benchmarks.evidence.rounds import ranked, rounds
from pudistill_cli.method.preferences import PreferenceSettings, ScoredGroup, identities, targets
from pudistill_cli.prompts import Prompt
from pudistill_cli.run.ledger import Ledger
from pudistill_cli.run.rollouts import of_round
from pudistill_cli.teacher.answers import Answer
from pudistill_cli.types import Candidate, Message

# Answers are digits, a digit is its own grade in tenths; the last candidate was cut off.
DRAWN = {"a": "2484", "b": "3333", "c": "1592"}
SCORES = {"a": [0.0, 1.0, 3.0, 1.0, 4.0], "b": [0.0, 0.0, 0.0, 0.0, 1.0], "c": [2.0, 1.0, 4.0, 9.0, 5.0]}
CUT_OFF = {"a": False, "b": False, "c": True}


def quality(prompt: str, answer: str) -> float:
    return int(answer) / 10


@pytest.fixture
def ledger(tmp_path: Path) -> Path:
    path = tmp_path / "ledger.sqlite"
    with closing(Ledger(path)) as held:
        held.add_prompts([Prompt(p, (Message("user", p),), "train", None, "p.jsonl", 1) for p in DRAWN])
        for prompt, answers in DRAWN.items():
            held.add_anchor(prompt, Answer("9", "ok", "stop", False, 1, 1, ""), "by hand")
            ends = ["stop", "stop", "stop", "length" if CUT_OFF[prompt] else "stop"]
            drawn = [Candidate((int(a),), np.zeros(1, np.float32), e) for a, e in zip(answers, ends, strict=True)]
            held.add_group(of_round(1), prompt, drawn, list(answers))
            truncated = np.array([e == "length" for e in ends] + [False])
            group = ScoredGroup(np.array(SCORES[prompt]), identities([[int(a)] for a in answers + "9"]), truncated)
            held.add_targets(1, prompt, "by hand", targets(group, PreferenceSettings(), 1.0), 1.0)
        prior = {"class_prior_estimate": 0.2, "class_prior_low": 0.1, "class_prior_high": 0.3}
        held.add_metrics("prefer", 1, 0, prior)
    return path


def test_groups_come_back_as_they_were_ranked(ledger: Path) -> None:
    groups, grade = ranked(ledger, quality)[1]
    assert [g.quality.tolist() for g in groups] == [[0.2, 0.4, 0.8, 0.4], [0.3] * 4, [0.1, 0.5, 0.9]]
    assert [g.slots.tolist() for g in groups] == [[1, 0.5, 1, 0.5], [0.25] * 4, [1, 1, 1]]
    assert grade == pytest.approx((1.8 + 1.2 + 1.7) / 12)  # the one that was cut off counts
    assert all(g.label.sum() < 1 for g in groups)  # the anchor has its share


def test_a_round_is_held_against_the_truth(ledger: Path) -> None:
    (line,) = rounds(ledger, quality)
    # Group a orders all 5 unequal pairs rightly, b has none, c 2 of 3: the grade of .1 is scored above that of .5.
    assert line["order"][0] == pytest.approx((1 + 2 / 3) / 2, abs=1e-4)
    assert line["concentration"][0] > 0.5
    # As good as an anchor of .9: one of twelve.
    assert (line["prior"]["estimate"], line["prior"]["truth"]) == (0.2, pytest.approx(1 / 12, abs=1e-4))
