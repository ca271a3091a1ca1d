"""`verdict`: the expected rating of an answer beside the anchor, read from the logits of one pass."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pudistill_cli.method.scorers import Item, Judge, Scores
from pudistill_cli.method.scorers.reading import ask, read_choices
from pudistill_cli.method.xp import log_softmax


@dataclass(frozen=True, slots=True)
class Verdict:
    """s_i = sum_c c p(rating c | x, a, y_i), ratings 1 to C (G-Eval, Liu et al. 2023). Nothing is decoded."""

    name = "verdict"
    model = True

    def score(self, judge: Judge, items: Sequence[Item]) -> Scores:
        """One question a candidate; an item's questions share their beginning up to the candidate."""
        words = judge.templates.verdict_choices
        questions = [
            [ask(judge, item, judge.templates.verdict, candidate=c.text) for c in item.candidates] for item in items
        ]
        ratings = np.arange(1, len(words) + 1)
        for index, logits in read_choices(judge, questions, words):  # (K, C)
            yield index, np.exp(log_softmax(np, logits.astype(np.float64))) @ ratings
