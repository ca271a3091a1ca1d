"""`likelihood-blind`, a baseline: the mean log-prob per token without the anchor in view."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pudistill_cli.method.scorers import Item, Judge, Scores, no_questions
from pudistill_cli.method.scorers.reading import mean_logprobs


@dataclass(frozen=True, slots=True)
class LikelihoodBlind:
    """s_i = (1 / |y_i|) log p(y_i | x): what sharpening alone would prefer."""

    name = "likelihood-blind"
    asks_model = True
    sees_anchor = False
    relative = False
    questions = no_questions

    def score(self, judge: Judge, items: Sequence[Item]) -> Scores:
        """The prompt as it was sampled from is the shared prefix."""
        return mean_logprobs(judge, items, [item.prompt for item in items])
