"""`pudistill run`: the main job."""

from __future__ import annotations

from contextlib import closing
from typing import Annotated

import typer

from pudistill_cli.allowed_code import NO_CODE, AllowedCode
from pudistill_cli.commands.options import (
    RUNS,
    AllowCodeOption,
    JsonOption,
    MetricOption,
    NameOption,
    OfflineOption,
    RecipeArgument,
    RunsOption,
    SetOption,
)
from pudistill_cli.commands.stopping import stoppable
from pudistill_cli.config.schema import Recipe
from pudistill_cli.config.stages import TITLES, Stage
from pudistill_cli.did_you_mean import did_you_mean
from pudistill_cli.errors import UsageError
from pudistill_cli.models.packaged import NotFetchedError, PackagedModel, packaged_model
from pudistill_cli.terminal.console import Console


def command(
    recipe: RecipeArgument,
    changes: SetOption = None,
    name: NameOption = None,
    runs: RunsOption = RUNS,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check everything, say what would be done, stop.")] = False,
    until: Annotated[
        str, typer.Option("--until", help=f"Stop after this stage: {', '.join(TITLES[:-1])} or {TITLES[-1]}.")
    ] = Stage.EXPORT.title,
    offline: OfflineOption = False,
    metric: MetricOption = None,
    allow_code: AllowCodeOption = False,
    as_json: JsonOption = False,
) -> None:
    """Run a recipe from teacher to exported weights; an unfinished run goes on where it stopped.

    Examples:

      pudistill run quickstart

      pudistill run my-recipe.yaml --set prefer.k=8 --name k8

      pudistill run my-recipe.yaml --dry-run
    """
    from pudistill_cli.bundle.opening import open_recipe
    from pudistill_cli.run.standing import standing

    last = Stage.named(until)
    if last is None:
        raise UsageError(
            f"--until {until}: no such stage{did_you_mean(until, TITLES)}.", f"One of: {', '.join(TITLES)}."
        )
    console, allowed = Console(as_json=as_json), AllowedCode(allow_code, metric)
    loaded = open_recipe(recipe, changes or [], console)
    offline = offline or loaded.bundled
    given, name = name, name or loaded.recipe.name
    if not dry_run and (done := standing(runs / name)):
        console.say(f"{name}: the run is there up to {done}")

    # What takes a second to import comes behind the first line.
    from pudistill_cli.loop import distil
    from pudistill_cli.report.dry_run import print_dry_run, teacher_rows
    from pudistill_cli.report.next_steps import print_next_steps
    from pudistill_cli.run.opening import open_run
    from pudistill_cli.run.plan import plan
    from pudistill_cli.run.preflight import check_before_asking, check_exports
    from pudistill_cli.run.student_text import StudentText

    try:
        checked = plan(loaded.recipe, console, offline=offline, allowed=allowed)
        with console.status("checking prompts and teacher"):
            to_ask = check_before_asking(
                loaded.recipe, checked.prompts, StudentText.of(checked), console, run=runs / name, offline=offline
            )
    except NotFetchedError as error:
        again = [*(changes or []), *_with_original(loaded.recipe, error.model)]
        command = resume_line(recipe, again, given, runs, until=last, allowed=allowed) + " --dry-run" * dry_run
        raise error.or_original(command) from None
    with console.status("checking the exports"):
        check_exports(loaded.recipe.export, checked.student, runs, allowed)
    if dry_run:
        print_dry_run(console, checked, to_ask, runs / name)
        return
    console.say(f"{name}: {checked.choice.reason}; {checked.student.description}")
    if to_ask.most is not None:
        for row, value in teacher_rows(loaded.recipe.teacher, to_ask).items():
            console.say(f"{row}: {value}")
    again = resume_line(recipe, changes, name, runs, until=last, offline=offline, allowed=allowed)
    with (
        stoppable(console, f"all finished work is kept. Go on with: {again}"),
        closing(open_run(checked, console, runs, name, offline=offline)) as job,
    ):
        distil(job, last)
        print_next_steps(job, last)


def resume_line(
    recipe: str,
    changes: list[str] | None,
    name: str | None,
    runs: object,
    *,
    until: Stage = Stage.EXPORT,
    offline: bool = False,
    allowed: AllowedCode = NO_CODE,
) -> str:
    """The command that goes on with this run; without a name, the one that starts it."""
    from shlex import quote

    from pudistill_cli.redaction import redacted_change

    parts = ["pudistill run", quote(recipe), *(f"--set {quote(redacted_change(c))}" for c in changes or [])]
    parts += [f"--name {quote(name)}"] if name else []
    parts += [f"--runs {quote(str(runs))}"] if runs != RUNS else []
    parts += [f"--until {until.title}"] if until is not Stage.EXPORT else []
    parts += ["--offline"] * offline + allowed.options
    return " ".join(parts)


def _with_original(recipe: Recipe, model: PackagedModel) -> list[str]:
    """The changes of a recipe that put a packaged model's original in its place."""
    named = {"student.model": recipe.student.model, "teacher.model": getattr(recipe.teacher, "model", None)}
    return [f"{key}={model.original}" for key, value in named.items() if value and packaged_model(value) == model]
