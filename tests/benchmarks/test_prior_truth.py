"""The comparison of a run's recorded class prior with the truth, on a ledger made by hand."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from benchmarks.prior_truth import priors_and_truth
from pudistill_cli.prompts import Prompt
from pudistill_cli.run.ledger import Ledger
from pudistill_cli.run.rollouts import of_round
from pudistill_cli.teacher.answers import Answer
from pudistill_cli.types import Candidate, Message

RIGHT = {"2 + 2": "4", "3 + 3": "6"}
ANCHORS = {"2 + 2": "4", "3 + 3": "7"}
"""The teacher slips at the second."""
DRAWN = {
    1: {"2 + 2": ["4", "5", "5", "4"], "3 + 3": ["6", "1", "2", "3"]},  # 2 of 4, and all beside a wrong anchor
    2: {"2 + 2": ["5", "5", "5", "4"]},  # 1 of 4
    3: {"3 + 3": ["6"]},  # no estimate
}


def test_a_candidate_counts_that_is_not_behind_the_anchor(tmp_path: Path) -> None:
    path = tmp_path / "ledger.sqlite"
    with closing(Ledger(path)) as ledger:
        ledger.add_prompts([Prompt(p, (Message("user", p),), "train", None, "p.jsonl", 1) for p in RIGHT])
        for prompt, text in ANCHORS.items():
            ledger.add_anchor(prompt, Answer(text, "ok", "stop", False, 1, 1, ""), "by hand")
        for number, groups in DRAWN.items():
            for prompt, texts in groups.items():
                candidates = [Candidate((1,), np.zeros(1, np.float32), "stop") for _ in texts]
                ledger.add_group(of_round(number), prompt, candidates, texts)
        for number, estimate in ((1, 0.7), (2, 0.4)):
            prior = {"class_prior_estimate": estimate, "class_prior_low": 0.1, "class_prior_high": 0.9}
            ledger.add_metrics("prefer", number, 0, {**prior, "truncated_share": 0.0})
    found = priors_and_truth(path, lambda prompt, answer: float(answer == RIGHT[prompt]))
    assert [(p.round, p.estimate, p.low, p.high, p.truth) for p in found] == [
        (1, 0.7, 0.1, 0.9, 6 / 8),
        (2, 0.4, 0.1, 0.9, 1 / 4),
    ]
    assert [p.error for p in found] == pytest.approx([-0.05, 0.15])
