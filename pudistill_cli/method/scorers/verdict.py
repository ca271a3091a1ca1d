"""`verdict`: the expected rating of an answer beside the anchor, read from the logits of one pass."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from pudistill_cli.method.scorers import Array, Item, Judge, Scores
from pudistill_cli.method.scorers.calibration import CONTENT_FREE, Calibration, batch, contextual
from pudistill_cli.method.scorers.reading import ask, mean_over_wordings, read_choices
from pudistill_cli.method.scorers.templates import Templates
from pudistill_cli.method.xp import log_softmax


@dataclass(frozen=True, slots=True)
class Verdict:
    """s_i = sum_c c p(rating c | x, a, y_i), ratings 1 to C (G-Eval, Liu et al. 2023). Nothing is decoded.

    The mean over the judge's wordings; of each, the label prior is removed first.
    """

    asks_model = True

    calibration: Calibration = "none"
    """contextual reads `CONTENT_FREE` in the answer's place too; batch takes the mean over the items of one call."""
    blind: bool = False
    """Without the anchor: a baseline, and what is left where there is none."""

    @property
    def name(self) -> str:
        """verdict, marked where it is not the plain one."""
        marks = ["blind"] * self.blind + [self.calibration] * (self.calibration != "none")
        return "-".join(["verdict", *marks])

    @property
    def sees_anchor(self) -> bool:
        """Unless it is blind."""
        return not self.blind

    @property
    def relative(self) -> bool:
        """Where the mean over a call is taken out."""
        return self.calibration == "batch"

    def questions(self, templates: Templates) -> tuple[str, ...]:
        """The blind wording, or the first and the further ones."""
        return (templates.verdict_blind,) if self.blind else (templates.verdict, *templates.other_verdicts)

    def score(self, judge: Judge, items: Sequence[Item]) -> Scores:
        """One question a candidate and wording; an item's questions share their beginning up to the candidate."""
        wordings = self.questions(judge.templates)
        ratings = np.arange(1, len(judge.templates.verdict_choices) + 1, dtype=np.float64)
        rated = (
            (index, np.asarray(np.exp(log_p) @ ratings))
            for wording in wordings
            for index, log_p in self._log_ratings(judge, items, wording)
        )
        return mean_over_wordings(rated, len(wordings))

    def _log_ratings(self, judge: Judge, items: Sequence[Item], template: str) -> Iterator[tuple[int, Array]]:
        """Yield (index, (K, C) calibrated log-probs of the ratings)."""
        free = CONTENT_FREE if self.calibration == "contextual" else ()
        questions = [
            [ask(judge, item, template, candidate=text) for text in (*(c.text for c in item.candidates), *free)]
            for item in items
        ]
        words = judge.templates.verdict_choices
        read = ((i, _log_p(logits)) for i, logits in read_choices(judge, questions, words))  # (K + F, C)
        if self.calibration == "batch":
            yield from _batch_calibrated(dict(read))
        elif free:
            for index, log_p in read:
                yield index, contextual(log_p[: -len(free)], log_p[-len(free) :])
        else:
            yield from read


def _batch_calibrated(read: dict[int, Array]) -> Iterator[tuple[int, Array]]:
    if not read:
        return
    ends = np.cumsum([len(log_p) for log_p in read.values()])[:-1]
    yield from zip(read, np.split(batch(np.concatenate(list(read.values()))), ends), strict=True)


def _log_p(logits: object) -> Array:
    return np.asarray(log_softmax(np, np.asarray(logits, dtype=np.float64)), dtype=np.float64)
