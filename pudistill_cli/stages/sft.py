"""Stage 1: supervised fine-tuning on the anchors. Its end is frozen: the judge, and the first policy."""

from __future__ import annotations

import shutil
from dataclasses import asdict, dataclass, replace

from pudistill_cli.config.sft_defaults import EPOCHS_WITHOUT_DEV, sft_shape
from pudistill_cli.models.adapter_average import fresh_adapter, mean_adapter
from pudistill_cli.run.context import Job, shown_as
from pudistill_cli.run.marks import Mark
from pudistill_cli.stages.anchors import Anchors
from pudistill_cli.stages.checkpoint import Checkpoint
from pudistill_cli.stages.dev_check import FEWEST, DevCheck
from pudistill_cli.stages.rewrites import lessons
from pudistill_cli.stages.schedule import learning_rate
from pudistill_cli.stages.sft_divergence import tell_divergence
from pudistill_cli.stages.sft_length import Length, forget_snapshots, train_as_long, train_until_dev_stops
from pudistill_cli.stages.sft_training import WARMUP, SftTraining


@dataclass(frozen=True, slots=True)
class _Trained:
    """A student that has been trained, as its mark has it."""

    loss: float
    """Mean over its last epoch, in nats a token."""
    taken: int
    """Steps, those that were not kept included."""
    length: Length | None
    """What dev decided, where it did."""


@shown_as("SFT")
def learn_anchors(job: Job, anchors: Anchors) -> None:
    """Train on the anchors of `sft.share` of the prompts and freeze the result as adapter `sft`.

    Several students are trained one after another, in an order and on rewrites of their own, each as long as dev kept
    the first; their mean is the result.
    """
    checkpoint = Checkpoint(job, Mark.SFT_CHECKPOINT(), "sft")
    if job.ledger.stage_done(Mark.SFT()):
        _clean_up(job, checkpoint)
        job.restore_learner("sft")
        return
    settings, student = job.recipe.sft, job.student
    shape = sft_shape(settings, parameters=student.parameters, width=student.width, anchors=len(anchors.for_sft))
    check = DevCheck(job, anchors.held_out["dev"])
    if shape.epochs is None and not check.tells:
        job.console.say(
            f"SFT: {len(check.prompts)} dev prompts cannot tell when to stop (it takes {FEWEST}): "
            f"{EPOCHS_WITHOUT_DEV} epochs"
        )
        shape = replace(shape, epochs=EPOCHS_WITHOUT_DEV)
    read = lessons(job, anchors.for_sft, shape)
    job.ledger.begin_stage(Mark.SFT())
    trained: list[_Trained] = []
    with job.console.bar("SFT", 1) as bar:
        for number in range(shape.students):
            training = SftTraining(job, read, shape, number, bar, sum(t.taken for t in trained), checkpoint)
            trained.append(_train(job, training, number, trained[0].length if trained else None, check))
    detail = {
        "rows": read.rows,
        "steps": sum(t.taken for t in trained),
        "loss": sum(t.loss for t in trained) / len(trained),
        "lr": shape.lr,
        "batch": shape.batch,
        "students": shape.students,
        "measure": check.measure if trained[0].length else None,
        "length": trained[0].length and asdict(trained[0].length),
    }
    if shape.students > 1:
        detail["kept"] = _mix(job, shape.students)
    job.save_learner("sft")
    job.finish_training(Mark.SFT(), "sft", detail, checkpoint.mark)
    job.model_pair.memo.clear()
    _clean_up(job, checkpoint)
    if trained[0].length:
        _tell(job, check.measure, trained[0].length, read.steps(shape.batch), shape.lr)
    tell_divergence(job, shape.lr)


def _train(job: Job, training: SftTraining, number: int, length: Length | None, check: DevCheck) -> _Trained:
    """One student, if that was not finished before; `length` is what dev decided about the first one, or None."""
    shape, several = training.shape, training.shape.students > 1
    mark = Mark.STUDENT(number + 1)
    if several and job.ledger.stage_done(mark):
        detail = job.ledger.stage_detail(mark)
        training.bar.advance(detail["taken"])
        return _Trained(detail["loss"], detail["taken"], detail["length"] and Length(**detail["length"]))
    if number:
        fresh_adapter(job.folder.adapter(_name(0)), job.folder.adapter("sft-start"), job.recipe.seed, number)
        job.restart_optimizer("sft-start")
    if several:
        job.ledger.begin_stage(mark)
    training.go_on()
    before, steps = training.taken, (shape.epochs or 0) * training.steps_an_epoch
    if steps:
        training.expect(steps)
        warmup = min(WARMUP, max(1, round(steps / 20)))
        training.train(0, (learning_rate(shape.lr, n, steps, warmup) for n in range(steps)))
    elif length is None:
        length = train_until_dev_stops(job, training, check)
    else:
        train_as_long(training, length)
    trained = _Trained(training.loss, training.taken - before, length)
    if several:
        kept = job.learner.snapshot(job.folder.adapter(_name(number)))
        job.ledger.finish_stage(mark, asdict(trained), job.folder.sums(kept), Mark.SFT_CHECKPOINT())
    return trained


def _clean_up(job: Job, checkpoint: Checkpoint) -> None:
    """Remove what SFT needed on its way."""
    checkpoint.forget()
    forget_snapshots(job)
    for folder in job.folder.adapter("").glob("sft-*"):
        if folder.name == "sft-start" or folder.name.removeprefix("sft-").isdecimal():
            shutil.rmtree(folder)


def _tell(job: Job, measure: str, length: Length, steps_an_epoch: int, lr: float) -> None:
    """How long it took, and what dev says; a warning where it learned nothing."""
    epochs = (length.stable_steps + length.decay_steps) / steps_an_epoch
    job.console.say(f"SFT: {epochs:.1f} epochs, dev {measure} {length.before:.3f} -> {length.after:.3f}")
    again = f"--name {job.folder.name}-2 --set sft.lr"
    if length.after <= length.before:
        job.console.warn(
            f"SFT has not lifted dev above the student as it came. Try another rate ({again}={3 * lr:.1g} or "
            f"{again}={lr / 3:.1g}), more anchors, or a look at what the anchors have in common with eval.metric."
        )
    elif length.capped:
        longest = f"{length.stable_steps / steps_an_epoch:.0f} epochs"
        job.console.say(f"dev was still improving after {longest}: {again}={2 * lr:.1g} learns faster")


def _mix(job: Job, students: int) -> float:
    """Go on from the mean of the students; returns the share of its square that an adapter's rank holds."""
    kept = mean_adapter([job.folder.adapter(_name(s)) for s in range(students)], job.folder.adapter("sft"))
    job.restart_optimizer("sft")
    job.console.say(f"SFT: the mean of {students} students, of which the adapter's rank holds {kept:.0%} by square")
    return kept


def _name(student: int) -> str:
    return f"sft-{student + 1}"
