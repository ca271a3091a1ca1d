"""Stage 1: supervised fine-tuning on the anchors. Its end is frozen: the judge, and the first policy."""

from __future__ import annotations

import math

from pudistill_cli.contract import SftBatch
from pudistill_cli.errors import TrainingError
from pudistill_cli.job import Job
from pudistill_cli.stages.anchors import Anchors
from pudistill_cli.stages.rewriting import rows_of_epochs
from pudistill_cli.stages.schedule import learning_rate, shuffled_batches
from pudistill_cli.stages.steps import stopped, train_step


def learn_anchors(job: Job, anchors: Anchors) -> None:
    """Train on the anchors of `sft.share` of the prompts and freeze the result as adapter `sft`."""
    if job.ledger.stage_done("sft"):
        job.restore_learner("sft")
        return
    settings = job.recipe.sft
    rows = rows_of_epochs(job, anchors.for_sft)
    per_epoch = math.ceil(len(rows[0]) / settings.batch)
    total = per_epoch * settings.epochs
    warmup = max(1, round(settings.warmup * total))
    slower = f"sft.lr={settings.lr / 3:.1g}"
    job.ledger.begin_stage("sft")
    losses: list[float] = []
    with job.console.bar("SFT", total) as bar:
        for step, batch in enumerate(
            batch
            for epoch, of_epoch in enumerate(rows)
            for batch in shuffled_batches(of_epoch, settings.batch, job.recipe.seed, 0, epoch)
        ):
            lr = learning_rate(settings.lr, step, total, warmup)
            try:
                metrics = train_step(job, SftBatch(batch, settings.soft), lr)
            except TrainingError as error:
                raise stopped(job, error, "sft", f"SFT stopped at step {step + 1}", slower) from error
            losses.append(metrics["loss"])
            job.metrics("sft", 0, step, metrics)
            bar.note(loss=metrics["loss"])
            bar.advance()
    job.save_learner("sft")
    last = losses[-per_epoch:]
    job.ledger.finish_stage("sft", {"rows": len(rows[0]), "steps": total, "loss": sum(last) / len(last)})
