"""A round's update, and whether the student is still near what it was, by its own answers; else the round is left out.

A rate that is too high seldom ends in NaN. It leaves a student to which all that it said before is impossible; with no
dev prompts nothing else would notice, and with them each further round would be trained on what it says now.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from pudistill_cli.errors import OutOfMemory, TrainingError
from pudistill_cli.run.context import Job, shown_as
from pudistill_cli.run.marks import Mark
from pudistill_cli.run.rollouts import policy_of
from pudistill_cli.stages.ending import Ending, Reason
from pudistill_cli.stages.preference_update import improve
from pudistill_cli.stages.ranking import Ranked, RankedGroup
from pudistill_cli.types import Continuations

GROUPS = 16
"""So many are looked at."""
FARTHEST = 2.0
"""Nats a token of KL(before || after) that no update of use comes near: good rounds move by hundredths (LOG.md)."""


def update(job: Job, ranked: Ranked, number: int) -> Ending | None:
    """Train round `number`, and look at what has become of the student; the end of the rounds where that is broken.

    Decided once; a run that goes on has the round's adapter, or the same end.
    """
    mark = Mark.ROUND_CHECK(number)
    if not job.ledger.stage_done(mark):
        job.ledger.begin_stage(mark)
        broken = _trained(job, ranked, number) or _moved_too_far(job, ranked, number)
        if broken:
            job.console.warn(
                f"Round {number}: {broken} The round is left out and the rounds end; "
                f"{job.folder.adapter(policy_of(number))} is the last good adapter. Try a lower rate: "
                f"--set train.lr={job.preference_lr / 10:.1g} --name {job.folder.name}-2"
            )
        job.ledger.finish_stage(mark, {"broken": broken})
    elif not job.ledger.stage_detail(mark)["broken"]:
        improve(job, ranked, number)
    return Ending.of(Reason.BROKEN, number - 1, number) if job.ledger.stage_detail(mark)["broken"] else None


def _trained(job: Job, ranked: Ranked, number: int) -> str:
    """What went wrong with the numbers while the round was trained; "" where it was, memory being another matter."""
    try:
        improve(job, ranked, number)
    except OutOfMemory:
        raise
    except TrainingError as error:
        return error.message
    return ""


@shown_as("check of the update")
def _moved_too_far(job: Job, ranked: Ranked, number: int) -> str:
    moved = _moved(job, _some(ranked.groups), policy_of(number), f"round-{number}")
    if np.isfinite(moved):
        job.metrics("prefer", number, 0, {"moved": moved})
    if moved <= FARTHEST:
        return ""
    what = f"it has moved the student by {moved:.1f} nats a token" if np.isfinite(moved) else "it leaves no numbers"
    return f"{what}; what the student answered before is no longer likely to it at all."


def _some(groups: Sequence[RankedGroup]) -> list[RankedGroup]:
    """Groups over the whole round, with their candidates that came to an end."""
    useful = [g for g in groups if g.targets.member[: len(g.drawn)].any()]
    return useful[:: max(1, -(-len(useful) // GROUPS))]


def _moved(job: Job, groups: list[RankedGroup], before: str, after: str) -> float:
    """KL(before || after), nats a token, on answers that were drawn before; NaN where `after` has no numbers."""
    old = _logprobs(job, groups, before)
    try:
        new = _logprobs(job, groups, after)
    except OutOfMemory:
        raise
    except TrainingError:
        return float("nan")
    return float((old - new).mean()) if len(old) else 0.0


def _logprobs(job: Job, groups: list[RankedGroup], name: str) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    requests = [Continuations(g.anchored.prompt_tokens, g.rows[: len(g.drawn)]) for g in groups]
    adapter = job.learner.load_adapter(job.folder.adapter(name))
    try:
        found = dict(job.learner.logprobs(requests, adapter))
    finally:
        job.learner.drop_adapter(adapter)
    return np.concatenate([np.zeros(0), *(row.astype(np.float64) for i in sorted(found) for row in found[i])])
