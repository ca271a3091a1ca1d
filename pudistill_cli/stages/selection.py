"""Which adapter is kept: the latest round that dev does not find worse, and never one that is behind SFT.

Rounds that dev goes on finding worse than SFT are the last ones.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass

import numpy as np

from pudistill_cli.method.scorers import Scorer
from pudistill_cli.method.statistics import Interval, paired_difference
from pudistill_cli.run.context import Job
from pudistill_cli.run.marks import Mark
from pudistill_cli.stages.anchors import Anchors
from pudistill_cli.stages.ending import Ending, Reason, rounds_to_train
from pudistill_cli.stages.evaluator import Evaluator, System, temperature_name

PATIENCE = 2
"""Rounds in a row worse than SFT that end the rounds: one that broke SFT was repaired by those after it (LOG.md)."""


@dataclass(frozen=True, slots=True)
class Considered:
    """What dev says of an adapter."""

    name: str
    measure: str
    tried: list[float]
    """`eval.dev_temperatures`."""
    values: list[float]
    """Per dev prompt, mean over those: less noisy than any one of them."""
    best: float
    """Mean at the temperature where it is best; NaN without dev prompts."""
    temperature: float

    @property
    def score(self) -> float:
        """What adapters are compared by."""
        return sum(self.values) / max(1, len(self.values))


class Selection:
    """The adapters considered so far. With no dev prompts the latest one is chosen."""

    def __init__(self, job: Job, anchors: Anchors, scorer: Scorer | None) -> None:
        self.job = job
        self.dev = anchors.held_out["dev"][: job.recipe.eval.dev_prompts]
        self.evaluator = Evaluator(job, {"dev": self.dev}, scorer)
        self.considered: list[Considered] = []

    def consider(self, name: str) -> None:
        """Evaluate an adapter on dev at each of `eval.dev_temperatures`."""
        with self.job.console.status("dev"):
            self._consider(name)

    def _consider(self, name: str) -> None:
        mark = Mark.DEV(name)
        job = self.job
        temperatures = list(job.recipe.eval.dev_temperatures)
        shown, measure = self.evaluator.selection_name, self.evaluator.selection_identity
        if job.ledger.stage_done(mark):
            held = Considered(**job.ledger.stage_detail(mark))
            if (held.measure, held.tried, len(held.values)) == (measure, temperatures, len(self.dev)):
                self.considered.append(held)
                return
        if not self.dev:
            self.considered.append(Considered(name, measure, temperatures, [], math.nan, job.recipe.prefer.temperature))
            return
        job.ledger.begin_stage(mark)
        values = np.stack([self.evaluator.selection_values(System(name, name), "dev", t) for t in temperatures])
        means = dict(zip(temperatures, values.mean(axis=1).tolist(), strict=True))
        temperature = max(means, key=lambda t: (means[t], -t))
        on_average = values.mean(axis=0).tolist()
        considered = Considered(name, measure, temperatures, on_average, means[temperature], temperature)
        job.metrics("dev", len(self.considered), 0, {f"{shown}@{t:g}": mean for t, mean in means.items()})
        self.considered.append(considered)
        job.ledger.finish_stage(mark, asdict(considered))
        job.console.say(
            f"{name}: dev {shown} {considered.score:.3f} over temperatures, "
            f"{considered.best:.3f} at {temperature_name(temperature)}"
        )

    def dev_ending(self, number: int) -> Ending | None:
        """The end of the rounds, where the `PATIENCE` ones up to `number` are worse than SFT on dev.

        Worse is a paired 95 % interval below zero. A run that has gone on, or ended, is not asked again: other `eval`
        settings change nothing about that.
        """
        job = self.job
        last = number == rounds_to_train(job)[-1]
        if last or job.ledger.stage_begun(Mark.ROUND(number + 1)):
            return None
        sft, *rounds = self.considered
        gains = [self._gain(considered, sft) for considered in rounds[-PATIENCE:]] if self.dev else []
        if len(gains) < PATIENCE or any(gain.high >= 0 for gain in gains):
            return None
        job.console.warn(
            f"{PATIENCE} rounds in a row are worse than SFT on dev, round-{number} by {-gains[-1].mean:.3f} "
            f"[{-gains[-1].high:.3f}, {-gains[-1].low:.3f}], so the rounds end here and {self.choice.name} is kept. "
            f"A lower rate may help (--set train.lr={job.preference_lr / 3:.1g}), or another scorer (rank.scorer)."
        )
        return Ending.of(Reason.DEV, number, PATIENCE)

    def _gain(self, considered: Considered, over: Considered) -> Interval:
        return paired_difference(considered.values, over.values, seed=self.job.recipe.seed)

    @property
    def choice(self) -> Considered:
        """The adapter that is kept; SFT where no round is at least as good on dev."""
        sft, *rounds = self.considered
        return self.among([c for c in rounds if not self.dev or c.score >= sft.score] or [sft])

    @property
    def last(self) -> Considered | None:
        """The round that stands for the rounds: the one that is kept, or where SFT is, the one that would be."""
        rounds = self.considered[1:]
        kept = self.choice if rounds else None
        return self.among(rounds) if kept is self.considered[0] else kept

    def among(self, considered: list[Considered]) -> Considered:
        """The latest of some that is not worse than their best by more than chance (paired 95 % interval).

        The best of many noisy figures is chosen for its noise; later rounds have learned more.
        """
        best = max(considered, key=lambda c: c.score)
        for later in reversed(considered):
            if not self.dev or self._gain(best, later).low <= 0:
                return later
        return best

    def of(self, name: str) -> Considered | None:
        """What dev said of one adapter."""
        return next((c for c in self.considered if c.name == name), None)
