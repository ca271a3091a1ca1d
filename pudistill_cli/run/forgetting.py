"""What becomes of a run whose recipe, or what it names, has changed: stages are done again, or it is refused."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

from pudistill_cli.config.stages import Effect, Stage
from pudistill_cli.errors import RunError
from pudistill_cli.run.identity import Difference, effects_of
from pudistill_cli.run.ledger import Ledger
from pudistill_cli.run.marks import Mark

_REDONE_FREELY = (Stage.EVAL, Stage.EXPORT)
"""What may be done again though it has finished."""


def forget_changed(run: Path, changed: Sequence[Difference]) -> Stage:
    """Forget the stages of a run that the differences touch; returns the first of them.

    Raises:
        RunError: one before `eval` has finished.
    """
    first = changed[0].stage
    if not (run / "ledger.sqlite").exists():
        return first
    with closing(Ledger(run / "ledger.sqlite")) as ledger:
        marks = [Mark.named(name) for name in ledger.finished_stages()]
        finished = {mark.stage for mark in marks if mark.holds_work and mark.stage not in _REDONE_FREELY}
        last = max(finished, key=lambda stage: stage.place, default=None)
        if last is not None and not last.precedes(first):
            raise _differs(run, changed, last)
        # An adapter's name stands for frozen weights, so what was sampled under it stays true.
        keep = ["base", *(p.name for p in (run / "adapters").iterdir())]
        same = all(Effect.SAME_ANSWERS in effects_of(d.key) for d in changed if d.stage is Stage.EVAL)
        ledger.forget_from(first, keep if same else [])
    return first


def _differs(run: Path, changed: Sequence[Difference], stage: Stage) -> RunError:
    listed = "".join(f"\n  {difference}" for difference in changed)
    return RunError(
        f"{run} is another run: its stage {stage.title!r} has finished with other settings (old -> new):{listed}",
        f"Start a run of its own: --name {run.name}-2. Or give the old one up: delete {run}",
    )
