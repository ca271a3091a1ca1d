"""Whether a round's groups have anything to teach: candidates that differ, and scores that differ."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pudistill_cli.method.preferences import ScoredGroup, Targets
from pudistill_cli.run.context import Job

MANY = 0.5
"""Above this share of groups without a difference the run warns."""


@dataclass(frozen=True, slots=True)
class Signal:
    """Of the groups that have a candidate which came to an end."""

    groups: int
    alike: int
    """Where all candidates are the same answer."""
    level: int
    """Where no score differs, the anchor's included where it is in the group: nothing says what is better."""

    @property
    def none(self) -> bool:
        """Whether no group has an order at all."""
        return 0 < self.groups == self.level


def signal_of(groups: Sequence[ScoredGroup], targets: Sequence[Targets]) -> Signal:
    """Count the groups that have collapsed."""
    used = [(g, t) for g, t in zip(groups, targets, strict=True) if t.member[:-1].any()]
    alike = [len(np.unique(g.identity[:-1][t.member[:-1] > 0])) == 1 for g, t in used]
    return Signal(len(used), sum(alike), sum(not t.advantage.any() for _, t in used))


def tell_signal(job: Job, signal: Signal, number: int) -> None:
    """Warn where many groups have collapsed, and say what brings differences back."""
    job.metrics(
        "prefer",
        number,
        0,
        {"groups_alike": signal.alike / max(1, signal.groups), "groups_level": signal.level / max(1, signal.groups)},
    )
    prefer, again = job.recipe.prefer, f"--name {job.folder.name}-2 --set"
    warmer = min(100.0, 1.3 * prefer.temperature)
    variety = f"More variety: {again} prefer.temperature={warmer:.2g}, or {again} prefer.k={2 * prefer.k}"
    if signal.none:
        why = "are all the same answer" if signal.alike == signal.groups else "all have the same score"
        job.console.warn(
            f"Round {number}: the candidates of each prompt {why}; nothing is left to rank, and the rounds end here. "
            f"{variety}; or another scorer (rank.scorer)."
        )
    elif signal.level > MANY * signal.groups:
        job.console.warn(
            f"Round {number}: in {signal.level} of {signal.groups} groups no score differs; they teach nothing. "
            f"{variety}; or another scorer (rank.scorer)."
        )
    elif signal.alike > MANY * signal.groups:
        job.console.warn(
            f"Round {number}: in {signal.alike} of {signal.groups} groups all candidates are the same answer. "
            f"{variety}."
        )
