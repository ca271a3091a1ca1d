"""What a person sees: progress on stderr, results on stdout; plain lines when piped; JSON events on request."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from rich.console import Console as Terminal
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Table

from pudistill_cli.errors import PudistillError

PLAIN_EVERY_SECONDS = 10.0
PIPED_COLUMNS = 200
"""What a table may take in a file or a pipe, where nothing else says how wide it is: no figure is cut off."""


@dataclass
class Bar:
    """One long piece of work; `advance` as items finish, `note` what is worth seeing beside the bar."""

    console: Console
    title: str
    total: int
    done: int = 0
    worked: int = 0
    """Of `done`, those that were done one by one, in this run."""
    notes: dict[str, str] = field(default_factory=dict[str, str])
    started: float = field(default_factory=time.monotonic)
    _shown: float = field(default_factory=time.monotonic)
    _progress: Progress | None = None
    _task: TaskID | None = None

    def advance(self, n: int = 1) -> None:
        """N more items are done; several at once are what an earlier run left, or what had no speed to tell."""
        self.done += n
        self.worked += n if n == 1 else 0
        if self._progress is not None and self._task is not None:
            self._progress.update(self._task, completed=self.done, notes=self.figures())
        elif time.monotonic() - self._shown >= PLAIN_EVERY_SECONDS:
            self._shown = time.monotonic()
            self.console.progress_line(self)

    def expect(self, total: int) -> None:
        """Show that it will be so many items, where that was not known at the start."""
        self.total = total
        if self._progress is not None and self._task is not None:
            self._progress.update(self._task, total=total)

    def note(self, **values: float | str) -> None:
        """Show key metrics beside the bar."""
        self.notes |= {k: v if isinstance(v, str) else f"{v:.4g}" for k, v in values.items()}
        if self._progress is not None and self._task is not None:
            self._progress.update(self._task, notes=self.figures())

    def end_early(self) -> None:
        """What is done is all that was needed."""
        self.total = self.done
        if self._progress is not None and self._task is not None:
            self._progress.update(self._task, total=self.total)

    @property
    def rate(self) -> float:
        """Items of this run a second, since the start."""
        return self.worked / max(time.monotonic() - self.started, 1e-9)

    def figures(self) -> str:
        """The rate, once there is one, and the notes."""
        rate = [f"{self.rate:,.1f}/s"] if self.worked else []
        return "  ".join([*rate, *(f"{k} {v}" for k, v in self.notes.items())])


class Console:
    """The one place that writes to the terminal."""

    def __init__(self, *, as_json: bool = False) -> None:
        self.as_json = as_json
        # Emoji codes would change what a model said: `10:100:30`.
        self.err = Terminal(stderr=True, highlight=False, emoji=False)
        has_width = sys.stdout.isatty() or "COLUMNS" in os.environ
        self.out = Terminal(highlight=False, emoji=False, width=None if has_width else PIPED_COLUMNS)

    # --- events and lines ---

    def event(self, kind: str, **fields: Any) -> None:
        """One machine-readable event, on stdout, when `--json` asks for it."""
        if self.as_json:
            sys.stdout.write(json.dumps({"event": kind, **fields}, ensure_ascii=False, default=str) + "\n")
            sys.stdout.flush()

    def say(self, text: str) -> None:
        """A line of progress."""
        self.event("info", message=text)
        if not self.as_json:
            self._print(text)

    def warn(self, text: str) -> None:
        """Something the user should know; the run goes on."""
        self.event("warning", message=text)
        if not self.as_json:
            self._print(text, "[yellow]warning:[/] ")

    def error(self, error: PudistillError) -> None:
        """What happened, and what to type next."""
        self.event("error", message=error.message, hint=error.hint, exit_code=error.exit_code)
        if self.as_json:
            return
        self._print(error.message, "[bold red]error:[/] ")
        if error.hint:
            self._print(error.hint, "[dim]next:[/]  ")

    def result(self, text: str) -> None:
        """A line of the result, on stdout."""
        if not self.as_json:
            self.out.print(escape(text), soft_wrap=True)

    def prose(self, text: str, *, bold: bool = False) -> None:
        """A sentence of the result, on stdout; words are wrapped at a terminal's edge."""
        if not self.as_json:
            style = "bold" if bold else None
            self.out.print(escape(text), style=style, soft_wrap=not self.out.is_terminal)

    def table(self, table: Table) -> None:
        """A table of results, on stdout."""
        if not self.as_json:
            self.out.print(table)

    def _print(self, text: str, before: str = "") -> None:
        """Words are wrapped at a terminal's edge; an indented line is a command, which stays whole to be copied."""
        for i, line in enumerate(text.split("\n")):
            whole = line.startswith("  ") or not self.err.is_terminal
            self.err.print("" if i else before, escape(line), sep="", soft_wrap=whole)

    # --- progress ---

    @contextmanager
    def bar(self, title: str, total: int, *, transient: bool = False) -> Generator[Bar]:
        """Show a piece of work from its start to its end; a transient bar leaves nothing on a terminal."""
        bar = Bar(self, title, total)
        self.event("started", stage=title, total=total)
        if self.err.is_terminal and not self.as_json:
            with Progress(
                TextColumn("{task.description}"),
                BarColumn(bar_width=None),
                MofNCompleteColumn(),
                TimeRemainingColumn(compact=True),
                TextColumn("[dim]{task.fields[notes]}"),
                console=self.err,
                expand=True,
                transient=transient,
            ) as progress:
                bar._progress = progress  # pyright: ignore[reportPrivateUsage]
                bar._task = progress.add_task(f"{title:<22}", total=total, notes="")  # pyright: ignore[reportPrivateUsage]
                yield bar
        else:
            yield bar
            self.progress_line(bar)
        self.event(
            "finished",
            stage=title,
            done=bar.done,
            seconds=round(time.monotonic() - bar.started, 2),
            **bar.notes,
        )

    def progress_line(self, bar: Bar) -> None:
        """A bar's state as one plain line, for pipes and logs."""
        self.event("progress", stage=bar.title, done=bar.done, total=bar.total, rate=round(bar.rate, 2), **bar.notes)
        if not self.as_json:
            self.err.print(escape(f"{bar.title}: {bar.done}/{bar.total}  {bar.figures()}".rstrip()), soft_wrap=True)
