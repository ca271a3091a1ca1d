"""How far a stage that trains is, saved by time: a process that ends in the middle of it loses no more than that.

A stage goes through the same motions again when it goes on, and leaves out the steps that were taken: everything that
they depend on hangs on the seed and the step's number alone.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pudistill_cli.backend_api import training_state
from pudistill_cli.files.file_sums import sum_of
from pudistill_cli.run.context import Job
from pudistill_cli.run.marks import MarkName
from pudistill_cli.stages.interrupts import HeldInterrupts

QUICK_SECONDS = 3.0
"""A state that takes longer to save is saved less often, in proportion: that is a twentieth of the time at most."""


@dataclass(frozen=True, slots=True)
class Saved:
    """What a stage goes on from."""

    steps: int = 0
    """That were taken."""
    state: Path | None = None
    """The learner's behind them."""
    detail: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """What the stage keeps beside it."""


class Checkpoint:
    """Of one stage: the learner's state in `state/<name>-step-N`, and the ledger's mark of it."""

    def __init__(self, job: Job, mark: MarkName, name: str) -> None:
        self._job, self.mark, self._name = job, mark, name
        self._sums: dict[str, str] = {}
        self._wait_for(0.0)

    def read(self) -> Saved:
        """What was saved last. Where a file of it is not what was written, the user is warned, and nothing was."""
        job = self._job
        if not job.ledger.stage_done(self.mark):
            return Saved()
        held = job.ledger.stage_detail(self.mark)
        for name, expected in held["sums"].items():
            if not _is(job.folder.state(name), expected):
                job.console.warn(
                    f"{job.folder.state(name)} is missing or damaged, so {self._name} begins again at its first step."
                )
                self.forget()
                return Saved()
        self._sums = held["sums"]
        return Saved(held["steps"], held["state"] and job.folder.state(held["state"]), held["detail"])

    @contextmanager
    def step(self, steps: int, detail: Callable[[], Mapping[str, Any]], needed: Sequence[Path] = ()) -> Generator[None]:
        """A step, and where it is time or the process is asked to end, `save` behind it; `steps` are with this one."""
        stopping = "Stopping after this step, so that it is kept; Ctrl-C again stops at once."
        with HeldInterrupts(lambda: self._job.console.say(stopping)) as interrupts:
            yield
            if interrupts.came or time.monotonic() >= self._next:
                self.save(steps, detail(), needed)

    def save(self, steps: int, detail: Mapping[str, Any], needed: Sequence[Path] = ()) -> None:
        """Save the learner and record it; `needed` are other states that going on from there will read."""
        started = time.monotonic()
        state = self._job.folder.state(f"{self._name}-step-{steps}")
        self._job.model_pair.save(state)
        self.record(steps, state, detail, needed)
        self._wait_for(time.monotonic() - started)

    def record(self, steps: int, state: Path | None, detail: Mapping[str, Any], needed: Sequence[Path] = ()) -> None:
        """Record a learner's state that was saved; None where no step was taken."""
        names = {path.name: path for path in ([state] if state else []) + list(needed)}
        self._sums = {name: self._sums.get(name) or sum_of(path) for name, path in names.items()}
        held = {"steps": steps, "state": state and state.name, "sums": self._sums, "detail": dict(detail)}
        self._job.ledger.begin_stage(self.mark)
        self._job.ledger.finish_stage(self.mark, held)
        self._remove_states(but=state)
        self._wait_for(0.0)

    def forget(self) -> None:
        """Nothing is saved any more."""
        self._sums = {}
        self._job.ledger.forget_stage(self.mark)
        self._remove_states()

    def _wait_for(self, took: float) -> None:
        self._next = time.monotonic() + training_state.SAVE_EVERY_SECONDS * max(1.0, took / QUICK_SECONDS)

    def _remove_states(self, but: Path | None = None) -> None:
        for folder in self._job.folder.states():
            if folder.name.startswith(f"{self._name}-step-") and folder != but:
                shutil.rmtree(folder)


def _is(folder: Path, expected: str) -> bool:
    try:
        return sum_of(folder) == expected
    except OSError:
        return False
