"""One optimizer step, and what is left of one that ended the process."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from pudistill_cli.backend_api.contract import Batch, Metrics
from pudistill_cli.errors import OutOfMemory, TrainingError
from pudistill_cli.run.context import Job

KILLS = frozenset({"gpu", "mps"})
"""Devices where too little memory may end the process without an exception: Apple's, by MLX's name and torch's. There
the GPU shares the system's memory, and macOS stops what takes too much of it. On a CPU a killed run must go on as if
it had not been, and CUDA always raises."""


def train_step(job: Job, batch: Batch, lr: float) -> Metrics:
    """`Learner.step`; after one that ended the process, in passes of half the size.

    Raises:
        TrainingError: it is not finite, or (OutOfMemory) a pass can be no smaller.
    """
    _after_a_kill(job)
    with _marked(job):
        return job.learner.step(batch, lr)


def stopped(job: Job, error: TrainingError, name: str, what: str, slower: str) -> TrainingError:
    """The error that ends a stage, the adapter kept as `<name>-stopped`; `slower` is the setting of a lower rate."""
    kept = _last_good(job, name)
    if isinstance(error, OutOfMemory):
        advice = "A pass can be no smaller: close other programs, or take a smaller student."
    else:
        advice = f"Try a lower rate: --set {slower} --name {job.folder.name}-2"
    where = f"The last good adapter is {kept}." if kept else "No adapter was good yet."
    return type(error)(f"{what}: {error.message}", f"{where} {advice}")


def _last_good(job: Job, name: str) -> Path | None:
    """The adapter as it is; where a step has spoilt it, the newest that was kept before, none of which is spoilt."""
    try:
        return job.learner.snapshot(job.folder.adapter(f"{name}-stopped"))
    except TrainingError:
        kept = [*job.folder.adapter("").glob("*/"), *job.folder.states()]
        return max(kept, key=lambda path: path.stat().st_mtime, default=None)


def _after_a_kill(job: Job) -> None:
    if not job.folder.step_marker.exists():
        return
    job.folder.step_marker.unlink()
    tokens = job.learner.halve_budget()
    if tokens is not None:
        job.folder.keep_token_budget(tokens)
        job.console.warn(
            "The process ended during a training step, as it does where the system stops a program that takes too "
            f"much memory: going on with half as much in a pass ({tokens:,} tokens)."
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
