"""The Typer app, and the one place where errors become exit codes."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import Annotated

import typer

from pudistill_cli import __version__
from pudistill_cli.backend_api.cpu import let_idle_threads_sleep
from pudistill_cli.commands import anchors, bundle, doctor, export, judge, recipes, report, run
from pudistill_cli.commands import eval as eval_
from pudistill_cli.console import Console
from pudistill_cli.errors import PudistillError

EXIT_CODES = (
    "Exit codes: 0 done; 1 internal; 2 command line or recipe; 3 prompts, anchors or checkpoint; 4 teacher; "
    "5 backend or machine; 6 training; 7 run folder; 8 export; 130 Ctrl-C."
)

app = typer.Typer(
    name="pudistill",
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


def main(argv: Sequence[str] | None = None) -> None:
    """Run a command line; a PudistillError becomes its message, its hint and its exit code.

    `PUDISTILL_DEBUG=1` shows the traceback as well.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    let_idle_threads_sleep()
    try:
        app(args=arguments, prog_name="pudistill")
    except PudistillError as error:
        if os.environ.get("PUDISTILL_DEBUG"):
            raise
        Console(as_json="--json" in arguments).error(error)
        sys.exit(error.exit_code)
