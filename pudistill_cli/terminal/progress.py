"""Work under way: how far it is, and how that is shown on a terminal or heard of in a pipe."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from rich.console import Console as Terminal
from rich.markup import escape
from rich.progress import (
    BarColumn,
    Progress,
    SpinnerColumn,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Column

from pudistill_cli.terminal.visible_text import visible_line

TICK = 0.25
"""Seconds between two looks at whether there is something to say."""
TITLE_COLUMNS = 22


@dataclass
class Bar:
    """One long piece of work; `advance` as items finish, `note` what is worth seeing beside the bar."""

    title: str
    total: int | None
    """Items; None where they are not counted."""
    done: int = 0
    worked: int = 0
    """Of `done`, those that were done one by one, in this run."""
    notes: dict[str, str] = field(default_factory=dict[str, str])
    started: float = field(default_factory=lambda: time.monotonic())
    changed: Callable[[Bar], None] = lambda bar: None

    def advance(self, n: int = 1) -> None:
        """N more items are done; several at once are what an earlier run left, or what had no speed to tell."""
        self.done += n
        self.worked += n if n == 1 else 0
        self.changed(self)

    def note(self, **values: float | str) -> None:
        """Show key metrics beside the bar."""
        self.notes |= {k: v if isinstance(v, str) else f"{v:.4g}" for k, v in values.items()}
        self.changed(self)

    def expect(self, total: int) -> None:
        """Show that it will be so many items, where that was not known at the start."""
        self.total = total
        self.changed(self)

    @property
    def seconds(self) -> float:
        """Since the start."""
        return time.monotonic() - self.started

    @property
    def rate(self) -> float:
        """Items of this run a second, since the start."""
        return self.worked / max(self.seconds, 1e-9)

    @property
    def count(self) -> str:
        """Items done, and of how many."""
        return "" if self.total is None else f"{self.done}/{self.total}"

    def figures(self) -> str:
        """The rate, once there is one, and the notes."""
        rate = [f"{self.rate:,.1f}/s"] if self.worked else []
        return "  ".join([*rate, *(f"{k} {v}" for k, v in self.notes.items())])

    def line(self) -> str:
        """All of it in words."""
        head = (
            f"{self.title}: {self.count}  {self.seconds:.0f} s" if self.count else f"{self.title}: {self.seconds:.0f} s"
        )
        return visible_line(f"{head}  {self.figures()}".rstrip())


class Live:
    """The innermost work on a terminal, drawn ten times a second with the time it has taken."""

    def __init__(self, terminal: Terminal) -> None:
        self._progress = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(bar_width=None),
            TextColumn("{task.fields[count]}", table_column=Column(min_width=7, justify="right", no_wrap=True)),
            TimeElapsedColumn(Column(min_width=7, no_wrap=True)),
            TimeRemainingColumn(compact=True, table_column=Column(min_width=5, no_wrap=True)),
            TextColumn("[dim]{task.fields[notes]}"),
            console=terminal,
            expand=True,
            transient=True,
            redirect_stdout=False,  # results and events go where stdout goes
        )
        self._tasks: dict[int, TaskID] = {}
        self._progress.start()

    def opened(self, bar: Bar) -> None:
        """Show it in place of the others."""
        for task in self._tasks.values():
            self._progress.update(task, visible=False)
        title = escape(f"{visible_line(bar.title):<{TITLE_COLUMNS}}")
        self._tasks[id(bar)] = self._progress.add_task(title, total=bar.total, count=bar.count, notes="")

    def changed(self, bar: Bar) -> None:
        """Draw its figures."""
        notes = escape(visible_line(bar.figures()))
        self._progress.update(self._tasks[id(bar)], completed=bar.done, total=bar.total, count=bar.count, notes=notes)

    def closed(self, bar: Bar) -> None:
        """Show again what was shown before it."""
        self._progress.remove_task(self._tasks.pop(id(bar)))
        if self._tasks:
            self._progress.update(list(self._tasks.values())[-1], visible=True)

    def stop(self) -> None:
        """Leave the terminal as it was."""
        self._progress.stop()


class Pulse:
    """Calls `beat` again and again in a thread of its own, so that work which says nothing for long is heard of."""

    def __init__(self, beat: Callable[[], None]) -> None:
        self._beat = beat
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="progress", daemon=True)
        self._thread.start()

    def opened(self, bar: Bar) -> None:
        """It is heard of in time."""

    def changed(self, bar: Bar) -> None:
        """It is heard of in time."""

    def closed(self, bar: Bar) -> None:
        """It is heard of no more."""

    def stop(self) -> None:
        """Come to an end, with the beat that may be under way."""
        self._stopped.set()
        self._thread.join(TICK + 1.0)  # a signal may have come between the console's lock and its release

    def _run(self) -> None:
        while not self._stopped.wait(TICK):
            self._beat()
