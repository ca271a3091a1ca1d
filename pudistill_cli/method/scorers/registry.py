"""The scorers a recipe can name. A program adds its own by one line: `SCORERS[own.name] = own`."""

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

_BUILT_IN: tuple[Scorer, ...] = (
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
SCORERS: dict[str, Scorer] = {scorer.name: scorer for scorer in _BUILT_IN}


def named_scorers(names: Sequence[str]) -> tuple[Scorer, ...]:
    """Those that `rank.scorer` names one by one: none for `auto`."""
    return tuple(SCORERS[name] for name in names if name != "auto")


def scorer_from(names: Sequence[str], weighting: Weighting = "equal", *, length_free: bool = False) -> Scorer:
    """The named scorer, or the ensemble of several; `length_free` takes the length out of each."""
    scorers = tuple(LengthFree(SCORERS[name]) if length_free else SCORERS[name] for name in names)
    return scorers[0] if len(scorers) == 1 else Ensemble(scorers, weighting)
