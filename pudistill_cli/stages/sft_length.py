"""How long SFT trains: until dev stops improving, then with a falling rate (docs/method.md).

The length is not known beforehand, so the rate stays as it is until it is, and falls from the best snapshot on
(warm-up, stable, decay: Hu et al. 2024, arXiv 2404.06395; Hägele et al. 2024, arXiv 2405.18392).
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

from pudistill_cli.method.statistics import paired_difference
from pudistill_cli.run.context import Job
from pudistill_cli.stages.dev_check import DevCheck, DevLook
from pudistill_cli.stages.schedule import FLOOR, learning_rate
from pudistill_cli.stages.sft_training import WARMUP, SftTraining

PATIENCE = 4
"""Looks at dev in a row without an improvement that end the training at the stable rate."""
LONGEST = 20
"""Epochs at the stable rate, at most."""
STABLE = (1 + FLOOR) / 2
"""The stable rate as a share of `sft.lr`: the mean of a linear decay from that to a tenth of it."""
STEPS_A_LOOK = 50
"""Dev is looked at after an epoch, or after so many steps where an epoch has more."""
DECAY = 0.5
"""Steps with a falling rate, as a share of those at the stable rate that are kept; an epoch at least."""
MOST_EPOCHS = round(LONGEST * (1 + DECAY))
"""That a student is trained, if dev goes on improving to the end."""
_SNAPSHOT = "sft-at-"


@dataclass(frozen=True, slots=True)
class Length:
    """What dev decided."""

    stable_steps: int
    """At the stable rate, of the student that is kept."""
    decay_steps: int
    """With a falling rate, of the student that is kept."""
    before: float
    """`DevCheck.measure` of the base."""
    after: float
    """The same of the student that is kept."""
    capped: bool
    """Whether dev was still improving when training at the stable rate ended."""


@dataclass(slots=True)
class Plateau:
    """The best of a series of looks at dev, and how many came after it."""

    patience: int
    best: DevLook | None = None
    at: int = 0
    """The step of the best one."""
    since: int = 0

    def improved(self, look: DevLook, at: int) -> bool:
        """Take up a look at some step; whether it is the best so far."""
        if self.best is not None and look.score <= self.best.score:
            self.since += 1
            return False
        self.best, self.at, self.since = look, at, 0
        return True

    @property
    def reached(self) -> bool:
        """Whether patience is at its end."""
        return self.since >= self.patience


def train_until_dev_stops(job: Job, training: SftTraining, check: DevCheck) -> Length:
    """Train one student, and leave the learner at what is kept.

    Raises:
        TrainingError: a step is not finite, or too large for the memory.
    """
    base = _look(job, training, check, None)
    training.keep_look(None)
    plateau, capped = _to_the_plateau(job, training, check, base)
    assert plateau.best is not None
    stable, decay = plateau.at, _decay(training, plateau.at)
    best = job.folder.state(_snapshot(stable))
    training.expect(decay)
    if not training.replays:
        job.model_pair.go_on_from(best)
    training.train(stable, _falling(training, decay))
    end = job.folder.state(_snapshot(stable + decay))
    kept = _look(job, training, check, end, base)
    training.keep_look(end)
    if paired_difference(kept.values, plateau.best.values, seed=job.recipe.seed).high < 0:
        job.model_pair.go_on_from(best)
        kept, decay = plateau.best, 0
    return Length(stable, decay, base.score[0], kept.score[0], capped)


def train_as_long(training: SftTraining, length: Length) -> None:
    """Train another student for what dev decided about the first, and leave the learner at the end of it."""
    training.expect(length.stable_steps + length.decay_steps)
    training.train(0, _stable(training, 0, length.stable_steps))
    training.train(length.stable_steps, _falling(training, length.decay_steps))


def forget_snapshots(job: Job, but: int | None = None) -> None:
    """Remove what `train_until_dev_stops` saved on its way, but for the snapshot of one step."""
    for folder in job.folder.states():
        if folder.name.startswith(_SNAPSHOT) and folder.name != _snapshot(but or 0):
            shutil.rmtree(folder)


def _to_the_plateau(job: Job, training: SftTraining, check: DevCheck, base: DevLook) -> tuple[Plateau, bool]:
    """Train at the stable rate; the snapshot of the best step is there at the end. Second: whether the cap ended it."""
    every = min(training.steps_an_epoch, STEPS_A_LOOK)
    plateau, step = Plateau(PATIENCE), 0
    while step < LONGEST * training.steps_an_epoch:
        left = (PATIENCE - plateau.since) * every + _decay(training, plateau.at)
        training.expect(left)
        training.train(step, _stable(training, step, every))
        step += every
        here = job.folder.state(_snapshot(step))
        improved = plateau.improved(_look(job, training, check, here, base), step)
        training.best = job.folder.state(_snapshot(plateau.at))
        training.keep_look(here)
        if plateau.reached:
            return plateau, False
        if improved and not training.replays:
            forget_snapshots(job, but=step)
    return plateau, True


def _decay(training: SftTraining, stable: int) -> int:
    """Steps with a falling rate after so many at the stable one."""
    return max(training.steps_an_epoch, round(DECAY * stable))


def _stable(training: SftTraining, first: int, steps: int) -> list[float]:
    rate = STABLE * training.shape.lr
    return [learning_rate(rate, n, 1, WARMUP, "constant") for n in range(first, first + steps)]


def _falling(training: SftTraining, steps: int) -> list[float]:
    """To a tenth of `sft.lr`, where a linear decay from that ends."""
    floor = FLOOR * training.shape.lr
    return [floor + (STABLE * training.shape.lr - floor) * (1 - n / steps) for n in range(steps)]


def _look(job: Job, training: SftTraining, check: DevCheck, state: Path | None, base: DevLook | None = None) -> DevLook:
    """At the learner as it is, saved as `state`; at the bare base where that is None."""

    def ask() -> DevLook:
        look = check.look(state, base)
        job.metrics("sft-dev", 0, training.taken, {check.measure: look.score[0]})
        return look

    look = training.look(ask, state)
    training.bar.note(dev=look.score[0])
    return look


def _snapshot(step: int) -> str:
    return f"{_SNAPSHOT}{step}"
