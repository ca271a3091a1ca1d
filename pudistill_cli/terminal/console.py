"""What a person sees: progress on stderr, results on stdout; plain lines when piped; JSON events on request."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

from rich.console import Console as Terminal
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from pudistill_cli.errors import PudistillError
from pudistill_cli.terminal.progress import TICK, Bar, Live, Pulse
from pudistill_cli.terminal.visible_text import visible, visible_json

EVERY_SECONDS = 2.0
"""What takes longer than this without a line says how far it is, where no terminal shows it all the time."""
PIPED_COLUMNS = 200
"""What a table may take in a file or a pipe, where nothing else says how wide it is: no figure is cut off."""


class PlainTable(Table):
    """A table whose cells, headings and title are text as it is: no markup in it is read, no control obeyed."""

    def __init__(self, *, title: str | None = None, title_style: str = "table.title", **options: Any) -> None:
        super().__init__(title=None if title is None else Text(visible(title), style=title_style), **options)

    def add_column(self, header: str = "", **options: Any) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """One more column, with its heading."""
        super().add_column(Text(visible(header)), **options)

    def add_row(self, *cells: str | Text, **options: Any) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """One more row; a `Text` brings a style of its own."""
        super().add_row(*(Text(visible(cell)) if isinstance(cell, str) else cell for cell in cells), **options)


class Console:
    """The one place that writes to the terminal. Whatever it is given, only what it styles itself steers a terminal."""

    def __init__(self, *, as_json: bool = False) -> None:
        self.as_json = as_json
        # Emoji codes would change what a model said: `10:100:30`.
        self.err = Terminal(stderr=True, highlight=False, emoji=False)
        has_width = sys.stdout.isatty() or "COLUMNS" in os.environ
        self.out = Terminal(highlight=False, emoji=False, width=None if has_width else PIPED_COLUMNS)
        self._work: list[Bar] = []
        """What is under way, the innermost last: that is what is shown."""
        self._display: Live | Pulse | None = None
        self._lock = threading.RLock()
        self._last_line = time.monotonic()

    # --- events and lines ---

    def event(self, kind: str, **fields: Any) -> None:
        """One machine-readable event, on stdout, when `--json` asks for it."""
        if self.as_json:
            line = visible_json({"event": kind, **fields}) + "\n"
            with self._lock:
                sys.stdout.write(line)
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
            self.out.print(escape(visible(text)), soft_wrap=True)

    def prose(self, text: str, *, bold: bool = False) -> None:
        """A sentence of the result, on stdout; words are wrapped at a terminal's edge."""
        if not self.as_json:
            style = "bold" if bold else None
            self.out.print(escape(visible(text)), style=style, soft_wrap=not self.out.is_terminal)

    def table(self, table: PlainTable) -> None:
        """A table of results, on stdout."""
        if not self.as_json:
            self.out.print(table)

    def _print(self, text: str, before: str = "") -> None:
        """Words are wrapped at a terminal's edge; an indented line is a command, which stays whole to be copied."""
        for i, line in enumerate(visible(text).split("\n")):
            whole = line.startswith("  ") or not self.err.is_terminal
            self.err.print("" if i else before, escape(line), sep="", soft_wrap=whole)

    # --- progress ---

    @contextmanager
    def bar(self, title: str, total: int, *, transient: bool = False) -> Generator[Bar]:
        """Show a piece of work from its start to its end; a transient bar leaves nothing on a terminal."""
        self.event("started", stage=title, total=total)
        with self._shown(Bar(title, total)) as bar:
            yield bar
        if not (transient and self._on_terminal):
            self.progress_line(bar)
        self.event("finished", stage=title, done=bar.done, seconds=round(bar.seconds, 2), **bar.notes)

    @contextmanager
    def status(self, title: str) -> Generator[None]:
        """Show that something is under way whose steps are not counted, wherever no bar inside of it says more."""
        with self._shown(Bar(title, None)):
            yield

    @property
    def doing(self) -> str | None:
        """The title of what is shown as under way."""
        return self._work[-1].title if self._work else None

    def progress_line(self, bar: Bar) -> None:
        """A bar's state as one plain line: at its end, and in pipes and logs now and then."""
        rate, seconds = round(bar.rate, 2), round(bar.seconds, 2)
        figures = {"done": bar.done, "total": bar.total, "rate": rate, "seconds": seconds, **bar.notes}
        self.event("progress", stage=bar.title, **figures)
        with self._lock:
            self._last_line = time.monotonic()
            if not self.as_json:
                self.err.print(escape(bar.line()), soft_wrap=not self.err.is_terminal)

    def beat(self) -> None:
        """A line on what is under way, where none was written for `EVERY_SECONDS`."""
        with self._lock:
            if self._work and time.monotonic() - self._last_line >= EVERY_SECONDS - TICK:
                self.progress_line(self._work[-1])

    @property
    def _on_terminal(self) -> bool:
        return self.err.is_terminal and not self.as_json

    @contextmanager
    def _shown(self, bar: Bar) -> Generator[Bar]:
        """The bar in place of what it is a part of, which is shown again when it is done."""
        if self._display is None:
            self._last_line = time.monotonic()
            self._display = Live(self.err) if self._on_terminal else Pulse(self.beat)
        display = self._display
        with self._lock:
            self._work.append(bar)
        display.opened(bar)
        bar.changed = display.changed
        try:
            yield bar
        finally:
            with self._lock:
                self._work.remove(bar)
            display.closed(bar)
            if not self._work:
                self._display = None
                display.stop()
