"""Ctrl-C, SIGTERM and SIGHUP, as every command answers them."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager

import typer

from pudistill_cli.terminal.console import Console
from pudistill_cli.terminal.stop_signals import exit_code_of, keeping
from pudistill_cli.terminal.visible_text import visible


@contextmanager
def stoppable(console: Console, kept: str) -> Generator[None]:
    """End with the signal's exit code, 130 for Ctrl-C, and say what is kept and how to go on."""
    try:
        with keeping(visible(kept)):
            yield
    except KeyboardInterrupt as stop:
        code = exit_code_of(stop)
        console.say(f"\nStopped; {kept}")
        raise typer.Exit(code) from None
