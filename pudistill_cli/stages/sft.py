"""Stage 1: supervised fine-tuning on the anchors. Its end is frozen: the judge, and the first policy."""

from __future__ import annotations

import math
import shutil
from collections.abc import Sequence

from pudistill_cli.backend_api.contract import Row, SftBatch
from pudistill_cli.console import Bar
from pudistill_cli.errors import TrainingError
from pudistill_cli.models.adapter_average import fresh_adapter, mean_adapter
from pudistill_cli.run.context import Job
from pudistill_cli.run.marks import Mark
from pudistill_cli.stages.anchors import Anchors
from pudistill_cli.stages.rewrites import rows_of_epochs
from pudistill_cli.stages.schedule import learning_rate, shuffled_batches
from pudistill_cli.stages.train_step import stopped, train_step


def learn_anchors(job: Job, anchors: Anchors) -> None:
    """Train on the anchors of `sft.share` of the prompts and freeze the result as adapter `sft`.

    Several `sft.students` are trained one after another, each for epochs of its own; their mean is the result.
    """
    if job.ledger.stage_done(Mark.SFT()):
        job.restore_learner("sft")
        return
    settings = job.recipe.sft
    rows = rows_of_epochs(job, anchors.for_sft)
    steps = math.ceil(len(rows[0]) / settings.batch) * settings.epochs
    job.ledger.begin_stage(Mark.SFT())
    with job.console.bar("SFT", steps * settings.students) as bar:
        losses = [
            _learn_one(job, student, rows[student * settings.epochs :][: settings.epochs], steps, bar)
            for student in range(settings.students)
        ]
    detail = {"rows": len(rows[0]), "steps": steps * settings.students, "loss": sum(losses) / len(losses)}
    if settings.students > 1:
        detail["kept"] = _mix(job)
    job.save_learner("sft")
    job.ledger.finish_stage(Mark.SFT(), detail)
    for name in ("sft-start", *map(_name, range(settings.students))):
        shutil.rmtree(job.folder.adapter(name), ignore_errors=True)


def _learn_one(job: Job, student: int, rows: Sequence[Sequence[Row]], steps: int, bar: Bar) -> float:
    """Train one student on its epochs, if that was not finished before; returns the mean loss of its last epoch."""
    settings = job.recipe.sft
    mark = Mark.STUDENT(student + 1)
    if job.ledger.stage_done(mark):
        bar.advance(steps)
        return float(job.ledger.stage_detail(mark)["loss"])
    if student:
        fresh_adapter(job.folder.adapter(_name(0)), job.folder.adapter("sft-start"), job.recipe.seed, student)
        job.restart_optimizer("sft-start")
    job.ledger.begin_stage(mark)
    warmup = max(1, round(settings.warmup * steps))
    slower = f"sft.lr={settings.lr / 3:.1g}"
    losses: list[float] = []
    for step, batch in enumerate(
        batch
        for epoch, of_epoch in enumerate(rows, start=student * settings.epochs)
        for batch in shuffled_batches(of_epoch, settings.batch, job.recipe.seed, 0, epoch)
    ):
        lr = learning_rate(settings.lr, step, steps, warmup)
        number = student * steps + step
        try:
            metrics = train_step(job, SftBatch(batch, settings.soft), lr)
        except TrainingError as error:
            raise stopped(job, error, "sft", f"SFT stopped at step {number + 1}", slower) from error
        losses.append(metrics["loss"])
        job.metrics("sft", 0, number, metrics)
        bar.note(loss=metrics["loss"])
        bar.advance()
    last = losses[-(steps // settings.epochs) :]
    loss = sum(last) / len(last)
    if settings.students > 1:
        job.learner.snapshot(job.folder.adapter(_name(student)))
        job.ledger.finish_stage(mark, {"loss": loss})
    return loss


def _mix(job: Job) -> float:
    """Go on from the mean of the students; returns the share of its square that an adapter's rank holds."""
    students = job.recipe.sft.students
    kept = mean_adapter([job.folder.adapter(_name(s)) for s in range(students)], job.folder.adapter("sft"))
    job.restart_optimizer("sft")
    job.console.say(f"SFT: the mean of {students} students, of which the adapter's rank holds {kept:.0%} by square")
    return kept


def _name(student: int) -> str:
    return f"sft-{student + 1}"
