"""`likelihood` (ours): the mean log-prob per token of an answer, with the anchor in view as the reference.

It needs no ability to judge, only to use what is in the context. Copying is favoured: the anchor's own score
is an upper bound, not a typical good answer's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pudistill_cli.method.scorers import Item, Judge, Scores, no_questions
from pudistill_cli.method.scorers.reading import ask, mean_logprobs


@dataclass(frozen=True, slots=True)
class Likelihood:
    """s_i = (1 / |y_i|) log p(y_i | x, a in view)."""

    name = "likelihood"
    asks_model = True
    sees_anchor = True
    relative = False
    questions = no_questions

    view: str | None = None
    """Another wording than the judge's own `templates.view`."""

    def score(self, judge: Judge, items: Sequence[Item]) -> Scores:
        """One shared prefix an item: the conversation with the anchor in view."""
        view = judge.templates.view if self.view is None else self.view
        return mean_logprobs(judge, items, [ask(judge, item, view) for item in items])
