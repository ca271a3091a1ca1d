"""An objective and a scorer from outside: what a program that uses pudistill writes to add its own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from pudistill_cli.method.objectives import GroupArrays
from pudistill_cli.method.objectives.terms import nll, ratio, sequence
from pudistill_cli.method.scorers import Item, Judge, Scores
from pudistill_cli.method.scorers.reading import ask, read_choices
from pudistill_cli.method.scorers.templates import Templates


@dataclass(frozen=True, slots=True)
class NegativesFollow:
    """The judge is distilled on a candidate as far as that is a negative; plus NLL of the anchor."""

    name: ClassVar[str] = "negatives-follow"
    reference: ClassVar[Literal["sft", "round"]] = "round"
    ranks: ClassVar[bool] = True
    distils = True
    needs_posterior = True

    anchor_nll: float = 0.3

    def loss(self, xp: Any, logp: Any, arrays: GroupArrays) -> tuple[Any, dict[str, Any]]:
        negative = arrays.member * (1 - arrays.anchor) * (1 - arrays.posterior)  # (G, M)
        follow = ratio(xp.sum(negative * sequence(xp, arrays.divergence, arrays.mask)), arrays.n_candidates)
        anchor = ratio(nll(xp, logp, arrays.mask, arrays.anchor), arrays.n_anchor_tokens)
        return follow + self.anchor_nll * anchor, {"follow": follow, "nll": anchor}


@dataclass(frozen=True, slots=True)
class Odds:
    """The log-odds of A against B as the answer to a question of its own."""

    name = "odds"
    asks_model = True
    sees_anchor = True
    relative = False

    def questions(self, templates: Templates) -> tuple[str, ...]:
        return ("{prompt} {anchor} {candidate}",)

    def score(self, judge: Judge, items: Sequence[Item]) -> Scores:
        (wording,) = self.questions(judge.templates)
        questions = [[ask(judge, item, wording, candidate=c.text) for c in item.candidates] for item in items]
        for index, logits in read_choices(judge, questions, ("A", "B")):
            yield index, logits[:, 0].astype(float) - logits[:, 1]
