"""The steps of one student of SFT, in whatever number: what it reads at which step, and what is recorded of it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict
from itertools import count, islice
from pathlib import Path

from pudistill_cli.backend_api.contract import Row, SftBatch
from pudistill_cli.config.sft_defaults import SftShape
from pudistill_cli.errors import TrainingError
from pudistill_cli.run.context import Job
from pudistill_cli.stages.checkpoint import Checkpoint, Saved
from pudistill_cli.stages.dev_check import DevLook
from pudistill_cli.stages.rewrites import Lessons
from pudistill_cli.stages.schedule import shuffled_batches
from pudistill_cli.stages.train_step import stopped, train_step
from pudistill_cli.terminal.progress import Bar

WARMUP = 5
"""Steps in which the rate rises, at most: an adapter begins at zero, and needs no more."""


class SftTraining:
    """One student: step n reads the same rows whenever it is taken, so that training can go back and on from there."""

    def __init__(
        self, job: Job, lessons: Lessons, shape: SftShape, student: int, bar: Bar, taken: int, checkpoint: Checkpoint
    ) -> None:
        self.job, self.shape, self.bar = job, shape, bar
        self._lessons, self._student = lessons, student
        self._taken = taken
        """Steps of the stage so far, those of other students included: the number of the next figure."""
        self.steps_an_epoch = lessons.steps(shape.batch)
        self._losses: list[float] = []
        self._checkpoint, self._saved = checkpoint, Saved()
        self._known: dict[int, float] = {}
        """Losses of steps, once they are asked for."""
        self._looks: list[DevLook] = []
        """At dev, those of the process before among them."""
        self._looked = 0
        """How many of them were asked for."""
        self.best: Path | None = None
        """The state of the best one, which training may go back to."""

    def go_on(self) -> None:
        """Go on from the checkpoint, where it is this student's: what it holds is not done again."""
        saved = self._checkpoint.read()
        if saved.detail.get("student") != self._student:
            return
        self._saved = saved
        for look in saved.detail["looks"]:
            values = tuple(math.nan if value is None else value for value in look["values"])  # as the ledger has it
            self._looks.append(DevLook(values, look["likelihood"]))
        if saved.steps:
            self.job.console.say(f"SFT goes on from step {saved.steps}")

    def train(self, first: int, rates: Iterable[float]) -> None:
        """Take a step at each rate, from step `first` on; steps before the checkpoint are left out.

        Raises:
            TrainingError: a step is not finite, or too large for the memory.
        """
        for batch, lr in zip(self._batches(first), rates, strict=False):
            if self.replays:
                self._leave_out()
                continue
            with self._checkpoint.step(self._taken + 1, self._detail, self._needed):
                self._step(batch, lr)

    def look(self, ask: Callable[[], DevLook], state: Path | None) -> DevLook:
        """Look at dev, by `ask`, with the learner saved as `state`; what the process before saw is not asked again."""
        if self._looked == len(self._looks):
            if state is not None:
                self.job.model_pair.save(state)
            self._looks.append(ask())
        self._looked += 1
        return self._looks[self._looked - 1]

    def keep_look(self, state: Path | None) -> None:
        """Record the last look, and the state that it was at as the one to go on from."""
        if not self.replays and self._looked == len(self._looks):
            self._checkpoint.record(self._taken, state, self._detail(), self._needed)

    @property
    def replays(self) -> bool:
        """Whether the steps that come were taken by the process before."""
        return self._taken < self._saved.steps

    @property
    def _needed(self) -> list[Path]:
        return [] if self.best is None else [self.best]

    def _detail(self) -> dict[str, object]:
        return {"student": self._student, "looks": [asdict(look) for look in self._looks]}

    def _step(self, batch: tuple[Row, ...], lr: float) -> None:
        job = self.job
        try:
            metrics = train_step(job, SftBatch(batch, job.recipe.sft.soft), lr)
        except TrainingError as error:
            slower = f"sft.lr={self.shape.lr / 3:.1g}"
            raise stopped(job, error, "sft", f"SFT stopped at step {self._taken + 1}", slower) from error
        job.metrics("sft", 0, self._taken, metrics)
        self._taken += 1
        self._losses.append(metrics["loss"])
        self.bar.note(loss=metrics["loss"])
        self.bar.advance()

    def _leave_out(self) -> None:
        """A step that was taken; behind the last of them, the learner is as it was."""
        if not self._known:
            self._known = {m.step: m.value for m in self.job.ledger.metrics("sft") if m.name == "loss"}
        self._losses.append(self._known[self._taken])
        self._taken += 1
        if not self.replays:
            assert self._saved.state is not None
            self.job.model_pair.go_on_from(self._saved.state)
            self.bar.advance(len(self._losses))

    def expect(self, steps: int) -> None:
        """Show that so many are to come, as far as is known now; of every student alike."""
        self.bar.expect(self._taken + steps * (self.shape.students - self._student))

    @property
    def taken(self) -> int:
        """Steps of the stage so far."""
        return self._taken

    @property
    def loss(self) -> float:
        """Mean over the last epoch's steps."""
        last = self._losses[-self.steps_an_epoch :]
        return sum(last) / len(last)

    def _batches(self, first: int) -> Iterator[tuple[Row, ...]]:
        epoch, skipped = divmod(first, self.steps_an_epoch)
        return islice(self._every_batch(epoch), skipped, None)

    def _every_batch(self, epoch: int) -> Iterator[tuple[Row, ...]]:
        for number in count(epoch):
            rows = self._lessons.epoch(self._student, number)
            yield from shuffled_batches(rows, self.shape.batch, self.job.recipe.seed, self._student, number)
