"""Ctrl-C, as every command that takes long answers it."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager

import typer

from pudistill_cli.console import Console


@contextmanager
def stoppable(console: Console, kept: str) -> Generator[None]:
    """End with 130 on Ctrl-C, and say what is kept and how to go on."""
    try:
        yield
    except KeyboardInterrupt:
        console.say(f"\nStopped; {kept}")
        raise typer.Exit(130) from None
