"""Results, a line a cell, in the repository: an interrupted table goes on where it stopped, on another day too."""

from __future__ import annotations

import json
import platform
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from hashlib import blake2b
from pathlib import Path
from typing import Any

from benchmarks import cells
from benchmarks.cells import ROOT
from benchmarks.evidence.variants import VARIANTS

RESULTS = ROOT / "benchmarks" / "results" / "evidence"
READS = RESULTS / "test-reads.jsonl"
FROZEN = RESULTS / "frozen.json"
"""The commit whose code the kept cells ran with, and its hashes: while it is there, no other code adds a cell."""
DEPENDS_ON = ("pudistill_cli/method", "pudistill_cli/stages", "pudistill_cli/loop.py",
              "pudistill_cli/config", "backends/pudistill_torch", "benchmarks/evidence/cell.py",
              "benchmarks/evidence/rounds.py")  # fmt: skip
FIXTURES = {
    "action": (
        "benchmarks/evidence/tasks/action.py",
        "benchmarks/evidence/tasks/drawing.py",
        "benchmarks/fixtures/quickstart",
        "recipes/quickstart/student",
    ),
    "note": ("benchmarks/evidence/tasks/note.py", "benchmarks/fixtures/note"),
    "story": (
        "benchmarks/evidence/tasks/story.py",
        "benchmarks/evidence/tasks/drawing.py",
        "benchmarks/fixtures/story",
    ),
}
"""What a task's cells depend on beside `DEPENDS_ON`."""


@dataclass(frozen=True, slots=True)
class Cell:
    """One run of one row."""

    task: str
    row: str
    seed: int
    settings: str
    """The canonical JSON that `cell.run_cell` is given."""

    @property
    def key(self) -> str:
        """Of the settings and of the code that they meet."""
        code = code_hash(self.task, any(variant.name in self.settings for variant in VARIANTS))
        return blake2b(f"{self.settings}|{code}".encode(), digest_size=8).hexdigest()


@cache
def code_hash(task: str, variants: bool) -> str:
    """Of all that a cell of the task depends on; the benchmark's own objectives where its settings name one.

    Of frozen results, what it was when they were frozen.
    """
    if frozen := frozen_at():
        return frozen["code"][f"{task}+variants" if variants else task]
    own = ("benchmarks/evidence/variants.py",) if variants else ()
    return cells.code_hash((*DEPENDS_ON, *own, *FIXTURES[task]))


def frozen_at() -> dict[str, Any] | None:
    """What `FROZEN` holds; None where the results are not frozen."""
    return json.loads(FROZEN.read_text(encoding="utf-8")) if FROZEN.exists() else None


class Store:
    """The cells of a file of results, the newest of each (task, row, seed)."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.lines: dict[tuple[str, str, int], dict[str, Any]] = {}
        self._read()

    def _read(self) -> None:
        if self.path.exists():
            for line in self.path.read_text(encoding="utf-8").splitlines():
                record = json.loads(line)
                self.lines[record["task"], record["row"], record["seed"]] = record

    def of(self, cell: Cell) -> dict[str, Any] | None:
        """The cell's result, if it is of these settings and this code."""
        record = self.lines.get((cell.task, cell.row, cell.seed))
        return record["result"] if record is not None and record["key"] == cell.key else None

    def keep(self, cell: Cell, result: dict[str, Any]) -> None:
        """Put a result in place of an older one; a reading of test is counted for good."""
        where = {"task": cell.task, "row": cell.row, "seed": cell.seed}
        now = {"key": cell.key, "commit": commit(), "machine": platform.platform(terse=True)}
        self._read()  # another command may have kept cells of its own
        self.lines[cell.task, cell.row, cell.seed] = {**where, **now, "settings": cell.settings, "result": result}
        self.path.parent.mkdir(parents=True, exist_ok=True)
        partial = self.path.with_suffix(".partial")
        partial.write_text("".join(_line(self.lines[k]) for k in sorted(self.lines)), encoding="utf-8")
        partial.replace(self.path)
        if "test" in result["grades"]:
            with READS.open("a", encoding="utf-8") as file:
                file.write(_line({**where, **now, "at": datetime.now(UTC).isoformat(timespec="seconds")}))


def reads() -> dict[tuple[str, str, int], int]:
    """How often each cell has read its task's test prompts."""
    counted: dict[tuple[str, str, int], int] = {}
    for line in READS.read_text(encoding="utf-8").splitlines() if READS.exists() else ():
        record = json.loads(line)
        key = record["task"], record["row"], record["seed"]
        counted[key] = counted.get(key, 0) + 1
    return counted


def cell(task: str, row: str, seed: int, settings: dict[str, Any]) -> Cell:
    """A cell with its settings in canonical form."""
    return Cell(task, row, seed, json.dumps({"task": task, "seed": seed, **settings}, sort_keys=True))


def missing(store: Store, wanted: Iterable[Cell]) -> list[Cell]:
    """The cells that are still to be run.

    Raises:
        SystemExit: there are some, and the results are frozen.
    """
    todo = [c for c in wanted if store.of(c) is None]
    if todo and (frozen := frozen_at()):
        raise SystemExit(
            f"{len(todo)} cells are not kept, and the results are frozen at commit {frozen['commit']}: cells of other "
            f"code do not belong beside them. Check that commit out to add them, or delete {FROZEN.relative_to(ROOT)} "
            "to run every cell anew."
        )
    return todo


@cache
def commit() -> str:
    """The commit that is checked out; `+` where the tree differs from it."""
    head = _git("rev-parse", "--short", "HEAD")
    return head + ("+" if _git("status", "--porcelain", "--untracked-files=no", "--", *DEPENDS_ON) else "")


def _git(*arguments: str) -> str:
    done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=False)
    return done.stdout.strip()


def _line(record: dict[str, Any]) -> str:
    return json.dumps(record, separators=(",", ":")) + "\n"
