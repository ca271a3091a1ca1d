"""The Typer app, and the one place where errors become exit codes."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Annotated, Any

import typer
from typer.core import TyperGroup
from typer.rich_utils import rich_format_error

from pudistill_cli import __version__
from pudistill_cli.backend_api.cpu import let_idle_threads_sleep
from pudistill_cli.commands import anchors, bundle, doctor, export, judge, recipes, report, run
from pudistill_cli.commands import eval as eval_
from pudistill_cli.errors import EXIT_CODES, PudistillError
from pudistill_cli.terminal.console import Console
from pudistill_cli.terminal.stop_signals import exit_code_of
from pudistill_cli.terminal.visible_text import visible


class _StoppedCommand(Exception):
    """A signal came where a command has nothing to keep; Typer has one exit code for all of them."""


class _Commands(TyperGroup):
    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt as stop:
            raise _StoppedCommand(exit_code_of(stop)) from None


app = typer.Typer(
    name="pudistill",
    cls=_Commands,
    help="Make a small language model better at its owner's own work, on this machine: one teacher answer per prompt, "
    "then the student samples, ranks and learns by itself.",
    epilog=EXIT_CODES,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("run")(run.command)
app.command("anchors")(anchors.command)
app.command("bundle")(bundle.command)
app.command("eval")(eval_.command)
app.command("report")(report.command)
app.command("export")(export.command)
app.command("judge")(judge.command)
app.command("recipes")(recipes.command)
app.command("doctor")(doctor.command)


def _version(value: bool) -> None:
    if value:
        typer.echo(f"pudistill {__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Options of every command."""


def execute(arguments: Sequence[str]) -> int:
    """The exit code of a command line; a PudistillError becomes its message, its hint and its exit code.

    `PUDISTILL_DEBUG=1` shows the traceback as well.
    """
    let_idle_threads_sleep()
    console = Console(as_json="--json" in arguments)
    try:
        ended = app(args=list(arguments), prog_name="pudistill", standalone_mode=False)
    except PudistillError as error:
        if os.environ.get("PUDISTILL_DEBUG"):
            raise
        console.error(error)
        return error.exit_code
    except _StoppedCommand as stop:
        console.say("\nStopped; the same command can be typed again.")
        return int(stop.args[0])
    except Exception as error:
        if not hasattr(error, "format_message"):
            raise
        return _refused(error)
    stopped = exit_code_of(KeyboardInterrupt())
    return 0 if not isinstance(ended, int) else stopped if ended == 130 else ended


def _refused(error: Any) -> int:
    """Typer's own word on a command line that is none, with what was typed."""
    error.message = visible(error.message)
    rich_format_error(error)
    return int(error.exit_code)
