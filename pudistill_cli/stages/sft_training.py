"""The steps of one student of SFT, in whatever number: what it reads at which step, and what is recorded of it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import count, islice

from pudistill_cli.backend_api.contract import Row, SftBatch
from pudistill_cli.config.sft_defaults import SftShape
from pudistill_cli.errors import TrainingError
from pudistill_cli.progress import Bar
from pudistill_cli.run.context import Job
from pudistill_cli.stages.rewrites import Lessons
from pudistill_cli.stages.schedule import shuffled_batches
from pudistill_cli.stages.train_step import stopped, train_step

WARMUP = 5
"""Steps in which the rate rises, at most: an adapter begins at zero, and needs no more."""


class SftTraining:
    """One student: step n reads the same rows whenever it is taken, so that training can go back and on from there."""

    def __init__(self, job: Job, lessons: Lessons, shape: SftShape, student: int, bar: Bar, taken: int) -> None:
        self.job, self.shape, self.bar = job, shape, bar
        self._lessons, self._student = lessons, student
        self._taken = taken
        """Steps of the stage so far, those of other students included: the number of the next figure."""
        self.steps_an_epoch = lessons.steps(shape.batch)
        self._losses: list[float] = []

    def train(self, first: int, rates: Iterable[float]) -> None:
        """Take a step at each rate, from step `first` on.

        Raises:
            TrainingError: a step is not finite, or too large for the memory.
        """
        job = self.job
        for batch, lr in zip(self._batches(first), rates, strict=False):
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
