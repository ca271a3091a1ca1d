"""`pmi` (ours): how much the anchor in view raises an answer's likelihood, per token."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pudistill_cli.method.scorers import Array, Item, Judge, Scores, no_questions
from pudistill_cli.method.scorers.reading import ask, mean_logprobs


@dataclass(frozen=True, slots=True)
class Pmi:
    """s_i = (1 / |y_i|) [log p(y_i | x, a in view) - log p(y_i | x)]."""

    name = "pmi"
    asks_model = True
    sees_anchor = True
    relative = False
    questions = no_questions

    def score(self, judge: Judge, items: Sequence[Item]) -> Scores:
        """Both prefixes of an item are one request each; it is yielded when the second is there."""
        views = [ask(judge, item, judge.templates.view) for item in items]
        waiting: dict[int, Array] = {}
        both = mean_logprobs(judge, [*items, *items], [*views, *(item.prompt for item in items)])
        for request, scores in both:
            index, blind = request % len(items), request >= len(items)
            signed = -scores if blind else scores
            if index in waiting:
                yield index, waiting.pop(index) + signed
            else:
                waiting[index] = signed
