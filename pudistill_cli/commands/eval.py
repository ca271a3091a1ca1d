"""`pudistill eval`: the final table of a run again, and some answers to read."""

from __future__ import annotations

from contextlib import closing
from shlex import quote
from typing import Annotated

import typer

from pudistill_cli.commands.options import RUNS, JsonOption, RunArgument, RunsOption, SetOption
from pudistill_cli.commands.stopping import stoppable
from pudistill_cli.console import Console
from pudistill_cli.errors import UsageError
from pudistill_cli.redaction import redacted_change


def command(
    run: RunArgument,
    changes: SetOption = None,
    show: Annotated[int, typer.Option("--show", min=0, help="Also print this many prompts with each answer.")] = 0,
    runs: RunsOption = RUNS,
    as_json: JsonOption = False,
) -> None:
    """Evaluate a finished run on its test set: from the answers it holds, or anew where settings changed.

    Examples:

      pudistill eval quickstart --show 3

      pudistill eval my-run --set eval.metric=chrf
    """
    from pudistill_cli.config.stages import Stage
    from pudistill_cli.loop import distil
    from pudistill_cli.report.answers import print_answers
    from pudistill_cli.run.marks import Mark
    from pudistill_cli.run.opening import reopen

    other = [change for change in changes or [] if not change.startswith("eval.")]
    if other:
        raise UsageError(
            f"--set {redacted_change(other[0])}: eval changes eval settings only.",
            "Start a new run: pudistill run --name NEW",
        )
    console = Console(as_json=as_json)
    with (
        stoppable(console, "the answers so far are kept, and the run is as it was. The same command goes on."),
        closing(reopen(run, runs, console, changes or [])) as job,
    ):
        before = job.ledger.stage_detail(Mark.EVAL())["chosen"]
        distil(job, Stage.EVAL)
        if (now := job.ledger.stage_detail(Mark.EVAL())["chosen"]) != before:
            console.warn(
                f"Dev now finds {now} best, where it was {before}: the table, the report and `pudistill export` "
                f"take {now}; exports that are there stay as they are. To go back: pudistill eval {quote(run)}"
            )
        if show:
            print_answers(job, show)
