"""`pudistill eval`: the final table of a run again, and some answers to read."""

from __future__ import annotations

from contextlib import closing
from shlex import quote
from typing import TYPE_CHECKING, Annotated

import typer

from pudistill_cli.allowed_code import NO_CODE, AllowedCode
from pudistill_cli.commands.options import (
    RUNS,
    AllowCodeOption,
    JsonOption,
    MetricOption,
    RunArgument,
    RunsOption,
    SetOption,
)
from pudistill_cli.commands.stopping import stoppable
from pudistill_cli.errors import UsageError
from pudistill_cli.redaction import redacted_change
from pudistill_cli.terminal.console import Console

if TYPE_CHECKING:
    from pudistill_cli.run.context import Job


def command(
    run: RunArgument,
    changes: SetOption = None,
    show: Annotated[int, typer.Option("--show", min=0, help="Also print this many prompts with each answer.")] = 0,
    runs: RunsOption = RUNS,
    metric: MetricOption = None,
    allow_code: AllowCodeOption = False,
    as_json: JsonOption = False,
) -> None:
    """Evaluate a finished run on its test set: from the answers it holds, or anew where settings changed.

    A table that was graded by code is shown as it is, unless the code is allowed again.

    Examples:

      pudistill eval quickstart --show 3

      pudistill eval my-run --set eval.metric=chrf

      pudistill eval my-run --metric my_metric.py:score
    """
    from pudistill_cli.config.loading import load_recipe
    from pudistill_cli.report.answers import print_answers
    from pudistill_cli.report.content import read_results
    from pudistill_cli.report.tables import print_results
    from pudistill_cli.run.measured import has_table_by_code
    from pudistill_cli.run.opening import find_run, reopen

    other = [change for change in changes or [] if not change.startswith("eval.")]
    if other:
        raise UsageError(
            f"--set {redacted_change(other[0])}: eval changes eval settings only.",
            "Start a new run: pudistill run --name NEW",
        )
    console, allowed = Console(as_json=as_json), AllowedCode(allow_code, metric)
    recipe = find_run(run, runs) / "recipe.yaml"
    held = allowed == NO_CODE and not changes and has_table_by_code(recipe.parent, load_recipe(str(recipe)).recipe)
    with (
        stoppable(console, "the answers so far are kept, and the run is as it was. The same command goes on."),
        closing(reopen(run, runs, console, changes or [], allowed=allowed, grades=not held)) as job,
    ):
        if held:
            console.warn("This is the table as it was made: it was graded by code, which is not run again without you.")
            print_results(console, read_results(recipe.parent / "results.json"))
        else:
            _evaluate(job, run)
        if show:
            print_answers(job, show)


def _evaluate(job: Job, run: str) -> None:
    from pudistill_cli.config.stages import Stage
    from pudistill_cli.loop import distil
    from pudistill_cli.run.marks import Mark

    before = job.ledger.stage_detail(Mark.EVAL())["chosen"]
    distil(job, Stage.EVAL)
    if (now := job.ledger.stage_detail(Mark.EVAL())["chosen"]) != before:
        job.console.warn(
            f"Dev now finds {now} best, where it was {before}: the table, the report and `pudistill export` "
            f"take {now}; exports that are there stay as they are. To go back: pudistill eval {quote(run)}"
        )
