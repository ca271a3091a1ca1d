"""The class prior of a round: what it is estimated from, what is said of it, and whether the round trains."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Literal, TypeAlias

import numpy as np

from pudistill_cli.method.class_prior import Prior, class_prior, posterior
from pudistill_cli.method.scorers import Array, Scorer
from pudistill_cli.run.context import Job
from pudistill_cli.run.rollouts import of_round
from pudistill_cli.stages.candidates import CandidateGroup
from pudistill_cli.stages.positives import positives

POSTERIOR = "posterior"
"""What the ledger keeps the candidates' posteriors under, as one more score."""
Decision: TypeAlias = Literal["train", "too few", "nothing left"]


@dataclass(frozen=True, slots=True)
class Unlabeled:
    """A round's candidates as unlabeled data."""

    prior: Prior
    posteriors: list[Array] | None
    """Per group (M - 1,): the probability of being as good as the anchor. None where no scorer can tell."""
    decision: Decision


def as_unlabeled(
    job: Job, scorers: Sequence[Scorer], raw: Sequence[Sequence[Array]], groups: Sequence[CandidateGroup], number: int
) -> Unlabeled:
    """Estimate prior and posteriors from each scorer's raw scores, per group (M,), and decide about the round.

    Only scorers that ask the model with the anchor in view count: string scorers and the student's own likelihood
    give the anchor away (method/class_prior.py). P are the anchors as stages/positives.py has them scored. The prior is
    that of as many candidates of every group as the smallest has: who gets more hangs on the scores. Posteriors are
    those of all rows; the ledger keeps those of the round's own.
    """
    asked = [i for i, scorer in enumerate(scorers) if scorer.asks_model and scorer.sees_anchor]
    if not asked:
        return Unlabeled(Prior(math.nan, math.nan, math.nan), None, "train")
    features = [raw[i] for i in asked]
    rows: list[Array] = [np.stack(scores, axis=-1) for scores in zip(*features, strict=True)]  # (M, F) each
    p = positives(job, [scorers[i] for i in asked], features, groups, number)
    k = min(len(g.candidates) for g in groups)
    prior = class_prior(np.stack([r[:k] for r in rows]), p, seed=job.recipe.seed)
    every = posterior(np.concatenate([r[:-1] for r in rows]), p, prior.estimate)
    by_group = np.split(every, np.cumsum([len(r) - 1 for r in rows])[:-1])
    for group, row in zip(groups, by_group, strict=True):
        job.ledger.add_scores(of_round(number), group.anchored.prompt.key, POSTERIOR, row[: len(group.candidates)])
    job.metrics("prefer", number, 0, {f"class_prior_{name}": value for name, value in asdict(prior).items()})
    prefer = job.recipe.prefer
    decision = decide(prior, prefer.prior_start, prefer.prior_stop, first=number == 1)
    _tell(job, prior, decision, number)
    return Unlabeled(prior, by_group, decision)


def decide(prior: Prior, start: float, stop: float, *, first: bool) -> Decision:
    """Whether a round is trained: the whole interval must speak against it, not the estimate alone (ours).

    "nothing left" where it lies above `stop`; "too few" where it lies below `start` before the first update: rounds
    that have begun go on, for their own candidates are what they were begun for.
    """
    if prior.low > stop:
        return "nothing left"
    if first and prior.high < start:
        return "too few"
    return "train"


def _tell(job: Job, prior: Prior, decision: Decision, number: int) -> None:
    prefer = job.recipe.prefer
    line = (
        f"round {number}: about {prior.estimate:.0%} of the candidates are as good as the anchor "
        f"[{prior.low:.0%}, {prior.high:.0%}]"
    )
    if decision == "nothing left":
        job.console.say(f"{line}; above {prefer.prior_stop:.0%} there is nothing left to rank: the rounds end here.")
    elif decision == "too few":
        job.console.warn(
            f"{line}; below {prefer.prior_start:.0%} ranking has too little to find, so the rounds do not start. "
            f"{_more_sft(job)}; or with rounds all the same: --name {job.folder.name}-2 --set prefer.prior_start=0"
        )
    elif prior.estimate < prefer.prior_start:
        job.console.warn(f"{line}; below {prefer.prior_start:.0%} ranking has little to find. More SFT may be better.")
    else:
        job.console.say(line)


def _more_sft(job: Job) -> str:
    """What brings more candidates up to the anchors."""
    if job.recipe.sft.epochs == "auto":
        return "Try a run with more anchors"
    return f"Try SFT that goes on until dev stops improving: --name {job.folder.name}-2 --set sft.epochs=auto"
