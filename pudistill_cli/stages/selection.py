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
from pudistill_cli.stages.anchors import Anchors
from pudistill_cli.stages.evaluator import Evaluator, System, temperature_name

STOP = "dev/stop"
"""The ledger's mark of rounds that dev ended."""
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
        stage = f"dev/{name}"
        job = self.job
        temperatures = list(job.recipe.eval.dev_temperatures)
        measure = self.evaluator.selection_name
        if job.ledger.stage_done(stage):
            held = Considered(**job.ledger.stage_detail(stage))
            if (held.measure, held.tried, len(held.values)) == (measure, temperatures, len(self.dev)):
                self.considered.append(held)
                return
        if not self.dev:
            self.considered.append(Considered(name, measure, temperatures, [], math.nan, job.recipe.prefer.temperature))
            return
        job.ledger.begin_stage(stage)
        values = np.stack([self.evaluator.selection_values(System(name, name), "dev", t) for t in temperatures])
        means = dict(zip(temperatures, values.mean(axis=1).tolist(), strict=True))
        temperature = max(means, key=lambda t: (means[t], -t))
        found = Considered(name, measure, temperatures, values.mean(axis=0).tolist(), means[temperature], temperature)
        job.metrics("dev", len(self.considered), 0, {f"{measure}@{t:g}": mean for t, mean in means.items()})
        self.considered.append(found)
        job.ledger.finish_stage(stage, asdict(found))
        job.console.say(
            f"{name}: dev {measure} {found.score:.3f} over temperatures, "
            f"{found.best:.3f} at {temperature_name(temperature)}"
        )

    def gives_up(self, number: int) -> bool:
        """Whether the `PATIENCE` rounds up to `number` are worse than SFT on dev (paired 95 % interval below zero).

        Decided once: other `eval` settings on a run that went on, or did not, change nothing about that.
        """
        job, name = self.job, f"round-{number}"
        if number == job.recipe.prefer.rounds or job.ledger.stage_done(f"round-{number + 1}"):
            return False
        if job.ledger.stage_done(STOP):
            return True
        sft, *rounds = self.considered
        gains = [self._gain(found, sft) for found in rounds[-PATIENCE:]] if self.dev else []
        if len(gains) < PATIENCE or any(gain.high >= 0 for gain in gains):
            return False
        job.ledger.begin_stage(STOP)
        job.ledger.finish_stage(STOP, {"after": name, "gains": [asdict(gain) for gain in gains]})
        job.console.warn(
            f"{PATIENCE} rounds in a row are worse than SFT on dev, {name} by {-gains[-1].mean:.3f} "
            f"[{-gains[-1].high:.3f}, {-gains[-1].low:.3f}], so the rounds end here and {self.choice.name} is kept. "
            f"A lower rate may help (--set train.lr={job.preference_lr / 3:.1g}), or another scorer (rank.scorer)."
        )
        return True

    def _gain(self, found: Considered, over: Considered) -> Interval:
        return paired_difference(found.values, over.values, seed=self.job.recipe.seed)

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
        for found in reversed(considered):
            if not self.dev or self._gain(best, found).low <= 0:
                return found
        return best

    def of(self, name: str) -> Considered | None:
        """What dev said of one adapter."""
        return next((c for c in self.considered if c.name == name), None)
