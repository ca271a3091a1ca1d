"""One optimizer step, repeated with fewer tokens in a pass where there was not enough memory for it."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from weakref import WeakKeyDictionary

from pudistill_cli.contract import Batch, Learner, Metrics
from pudistill_cli.errors import OutOfMemory, TrainingError
from pudistill_cli.job import Job

KILLS = frozenset({"gpu", "mps"})
"""Devices where too little memory may end the process without an exception: Apple's, by MLX's name and torch's. There
the GPU shares the system's memory, and macOS stops what takes too much of it. On a CPU a killed run must go on as if
it had not been, and CUDA always raises."""

_budgets: WeakKeyDictionary[Learner, int] = WeakKeyDictionary()
"""Tokens in a pass of each learner that was told to take fewer: where engine and learner take turns, each turn begins
with a new one."""


def train_step(job: Job, batch: Batch, lr: float) -> Metrics:
    """`Learner.step`, with as few tokens in a pass as it takes; the run keeps that number.

    Raises:
        TrainingError: it is not finite, or (OutOfMemory) a pass can be no smaller.
    """
    _use_what_fits(job)
    while True:
        try:
            with _marked(job):
                return job.learner.step(batch, lr)
        except OutOfMemory as error:
            shortage = OutOfMemory(error.message, error.hint)  # without the frames, which hold the step's arrays
        tokens = _budget(job)
        if not _halve(job):
            raise shortage
        job.folder.keep_token_budget(_budget(job))
        job.console.warn(
            f"There was not enough memory for {tokens:,} tokens in a pass: going on with {_budget(job):,}."
        )


def stopped(job: Job, error: TrainingError, name: str, what: str, slower: str) -> TrainingError:
    """The error that ends a stage, the adapter kept as `<name>-stopped`; `slower` is the setting of a lower rate."""
    kept = job.learner.snapshot(job.folder.adapter(f"{name}-stopped"))
    if isinstance(error, OutOfMemory):
        advice = "A pass can be no smaller: close other programs, or take a smaller student."
    else:
        advice = f"Try a lower rate: --set {slower} --name {job.folder.name}-2"
    return type(error)(f"{what}: {error.message}", f"The last good adapter is {kept}. {advice}")


def _use_what_fits(job: Job) -> None:
    """What this run found before: by an exception, or by the end of its process in the middle of a step."""
    kept = job.folder.token_budget
    while kept is not None and _budget(job) > kept and _halve(job):
        pass
    if job.folder.step_marker.exists():
        job.folder.step_marker.unlink()
        tokens = _budget(job)
        if _halve(job):
            job.folder.keep_token_budget(_budget(job))
            job.console.warn(
                "The process ended during a training step, as it does where the system stops a program that takes too "
                f"much memory: going on with {_budget(job):,} tokens in a pass, not {tokens:,}."
            )


@contextmanager
def _marked(job: Job) -> Generator[None]:
    """Leave a trace of a step from which the process does not return."""
    if job.resolved.get("device") not in KILLS:
        yield
        return
    job.folder.step_marker.touch()
    try:
        yield
    finally:
        job.folder.step_marker.unlink()


def _budget(job: Job) -> int:
    return _budgets.get(job.learner, job.learner_spec.token_budget)


def _halve(job: Job) -> bool:
    tokens = job.learner.halve_budget()
    if tokens is None:
        return False
    _budgets[job.learner] = tokens
    return True
