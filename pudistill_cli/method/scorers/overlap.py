"""`chrf` and `token-f1`: likeness to the anchor. For structured answers; misleading for free writing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pudistill_cli.method.scorers import Item, Judge, Scores, no_questions
from pudistill_cli.types import Tokens


@dataclass(frozen=True, slots=True)
class Chrf:
    """Character n-gram F-score, 0 to 1 (Popović 2015, chrF2 as in sacreBLEU)."""

    name = "chrf"
    asks_model = False
    sees_anchor = True
    relative = False
    questions = no_questions

    def score(self, judge: Judge, items: Sequence[Item]) -> Scores:
        """The judge is not asked."""
        from sacrebleu import sentence_chrf

        for index, item in enumerate(items):
            scores = [sentence_chrf(c.text, [item.anchor.text]).score / 100 for c in item.candidates]
            yield index, np.array(scores)


@dataclass(frozen=True, slots=True)
class TokenF1:
    """F1 of an answer's tokens against the anchor's, as multisets, 0 to 1 (Rajpurkar et al. 2016)."""

    name = "token-f1"
    asks_model = False
    sees_anchor = True
    relative = False
    questions = no_questions

    def score(self, judge: Judge, items: Sequence[Item]) -> Scores:
        """The judge is not asked."""
        for index, item in enumerate(items):
            yield index, np.array([token_f1(c.tokens, item.anchor.tokens) for c in item.candidates])


def token_f1(answer: Tokens, reference: Tokens) -> float:
    """2 |A and B| / (|A| + |B|) over multisets of tokens; 0 where both are empty."""
    shared = (Counter(answer) & Counter(reference)).total()
    return 2 * shared / max(1, len(answer) + len(reference))
