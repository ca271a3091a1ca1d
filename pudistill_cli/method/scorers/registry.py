"""The scorers a recipe can name."""

from __future__ import annotations

from collections.abc import Sequence

from pudistill_cli.method.scorers import Scorer
from pudistill_cli.method.scorers.agreement import Weighting
from pudistill_cli.method.scorers.ensemble import Ensemble
from pudistill_cli.method.scorers.length import LengthFree
from pudistill_cli.method.scorers.likelihood import Likelihood
from pudistill_cli.method.scorers.likelihood_blind import LikelihoodBlind
from pudistill_cli.method.scorers.overlap import Chrf, TokenF1
from pudistill_cli.method.scorers.pairwise import Pairwise
from pudistill_cli.method.scorers.pmi import Pmi
from pudistill_cli.method.scorers.verdict import Verdict

_ALL: tuple[Scorer, ...] = (
    Likelihood(),
    LikelihoodBlind(),
    Pmi(),
    Verdict(),
    Verdict("contextual"),
    Verdict("batch"),
    Verdict(blind=True),
    Pairwise(),
    Pairwise(blind=True),
    Chrf(),
    TokenF1(),
)
SCORERS = {scorer.name: scorer for scorer in _ALL}
WITHOUT_ANCHOR = ("likelihood-blind", "verdict-blind", "pairwise-blind")
"""Those that do not look at the anchor."""
RELATIVE = ("verdict-batch", "pairwise", "pairwise-blind")
"""Those whose score of an answer depends on what else is scored with it."""


def sees_anchor(scorer: Scorer) -> bool:
    """Whether its scores depend on the anchor, with or without the length taken out."""
    return scorer.name.partition("/")[0] not in WITHOUT_ANCHOR


def is_relative(scorer: Scorer) -> bool:
    """Whether its score of an answer depends on what else is scored with it."""
    return scorer.name in RELATIVE or isinstance(scorer, LengthFree)


def scorer_from(names: Sequence[str], weighting: Weighting = "equal", *, length_free: bool = False) -> Scorer:
    """The named scorer, or the ensemble of several; `length_free` takes the length out of each."""
    scorers = tuple(LengthFree(SCORERS[name]) if length_free else SCORERS[name] for name in names)
    return scorers[0] if len(scorers) == 1 else Ensemble(scorers, weighting)
