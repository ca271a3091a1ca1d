"""A small real run in a process of its own, and all that it leaves behind, so that two runs can be compared."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any

import yaml

from benchmarks.cells import ONE_THREAD, ROOT

QUICKSTART = ROOT / "recipes" / "quickstart"
SIZES = {"train": ("prompts.jsonl", 32), "dev": ("prompts-dev.jsonl", 12), "test": ("prompts-test.jsonl", 8)}
BACKENDS = ("torch", "mlx", "llamacpp")
LONGEST_SECONDS = 300.0
"""A small run takes some seconds; one that takes this long hangs."""

NO_PAUSE_BETWEEN_STATES = """
import pudistill_cli.backend_api.training_state as states
states.SAVE_EVERY_SECONDS = 0.0
"""
"""A real run saves a stage's state once a minute; a small one is over by then, so it saves after every step."""
START = """
from pudistill_cli.app import main
main()
"""
NEVER_THE_SAME = {"id", "at", "asked_at", "started", "logprobs"}
"""Columns of a ledger that hold a moment or the order of rows; and log-probs of drawn tokens. What a kill has left to
be drawn is drawn in other batches, which on torch changes their last bits, and neither a token nor an adapter.
"""
OF_LOGPROBS = "sampler_gap"
"""How the names of figures begin that are made of these log-probs alone."""


@dataclass(frozen=True)
class Ended:
    """How a process ended, and what it said."""

    code: int
    events: list[dict[str, Any]]
    err: str

    @property
    def has_traceback(self) -> bool:
        """Whether a person was shown the inside of the program."""
        return "Traceback (most recent call last)" in self.err

    @property
    def said(self) -> str:
        """Every message of the events, and what went to stderr."""
        return "\n".join([*(str(e.get("message", "")) for e in self.events), self.err])


@dataclass(frozen=True)
class SmallRun:
    """A recipe with the quickstart's student and a few of its prompts, and the folder that its runs are made in."""

    folder: Path
    backend: str = "torch"
    environment: dict[str, str] = field(default_factory=dict)

    @classmethod
    def make(cls, folder: Path, backend: str, teacher: dict[str, Any] | None = None) -> SmallRun:
        """Write recipe, prompts and answers to an empty folder; `teacher` takes the place of the answers' file."""
        folder.mkdir(parents=True)
        prompts = {split: _lines(QUICKSTART / name)[:count] for split, (name, count) in SIZES.items()}
        for split, records in prompts.items():
            _write(folder / f"{split}.jsonl", records)
        asked = {record["prompt"] for records in prompts.values() for record in records}
        _write(folder / "anchors.jsonl", [r for r in _lines(QUICKSTART / "anchors.jsonl") if r["prompt"] in asked])
        settings = {
            "name": "small",
            "student": {"model": str(QUICKSTART / "student"), "device": "cpu", "dtype": "float32"},
            "teacher": teacher or {"kind": "file", "path": "anchors.jsonl"},
            "prompts": {split: f"{split}.jsonl" for split in SIZES},
            "backend": backend,
            "lora": {"r": 4, "alpha": 8.0},
            "sft": {"lr": 3.0e-3, "epochs": 4, "students": 2, "batch": 8, "rewrites": False},
            # A student that has seen so little cannot rank: gates and prior let everything through.
            "rank": {"gate_prompts": 8, "min_anchor": 0.0, "min_kendall": -1.0, "view": "{prompt}\nref: {anchor}"},
            "prefer": {"k": 4, "rounds": 2, "max_new_tokens": 48, "prior_start": 0.0, "prior_stop": 1.0},
            "train": {"groups_per_step": 8},
            "eval": {"metric": "json", "samples": 1, "temperatures": [1.0], "dev_temperatures": [0.0]},
            "export": {"formats": ["mlx", "adapter"] if backend == "mlx" else ["hf", "gguf", "adapter"]},
        }
        (folder / "small.yaml").write_text(yaml.safe_dump(settings, sort_keys=False), encoding="utf-8")
        return cls(folder, backend)

    @property
    def run(self) -> SmallRunAt:
        """The recipe's run, in its usual place."""
        return SmallRunAt(self, self.folder / "runs")


@dataclass(frozen=True)
class SmallRunAt:
    """One run of a small recipe."""

    recipe: SmallRun
    runs: Path

    @property
    def path(self) -> Path:
        """The run's folder."""
        return self.runs / "small"

    def start(self, *options: str, before: Sequence[str] = ()) -> subprocess.Popen[str]:
        """`pudistill run` in a process group of its own; `before` is a command that starts it, such as strace."""
        return start("run", "small.yaml", "--runs", str(self.runs), *options, folder=self.recipe.folder, before=before)

    def finish(self, *options: str, before: Sequence[str] = ()) -> Ended:
        """Run to the end."""
        return ended(self.start(*options, before=before))

    def put_aside(self, name: str) -> SmallRunAt:
        """The run, moved beside the recipe: another may be made in its place. Paths in its ledger stay the old ones."""
        aside = SmallRunAt(self.recipe, self.recipe.folder / name)
        self.runs.rename(aside.runs)
        return aside

    def contents(self) -> dict[str, str]:
        """All that the run has left, by place: the SHA-256 of each file that is not a diary, and of each table."""
        left: dict[str, str] = {}
        for path in sorted(p for p in self.path.rglob("*") if p.is_file()):
            name = path.relative_to(self.path).as_posix()
            if name.startswith(("adapters/", "export/", "state/")) or name == "results.json":
                left[name] = sha256(_bytes_that_count(path)).hexdigest()
        for table, rows in ledger_rows(self.path / "ledger.sqlite").items():
            left[f"ledger: {table}"] = sha256(repr(rows).encode()).hexdigest()
        return left


def start(*arguments: str, folder: Path, before: Sequence[str] = ()) -> subprocess.Popen[str]:
    """A command of `pudistill` with `--json`, with a cache beside the recipe."""
    code = NO_PAUSE_BETWEEN_STATES + START
    return subprocess.Popen(
        [*before, sys.executable, "-c", code, *arguments, "--json"],
        cwd=folder,
        env={**os.environ, **ONE_THREAD, "PUDISTILL_CACHE": str(folder / "cache"), "PYTHONPATH": _path()},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def ended(process: subprocess.Popen[str]) -> Ended:
    """Wait for a process; one that hangs is killed, and ends with -9."""
    try:
        out, err = process.communicate(timeout=LONGEST_SECONDS)
    except subprocess.TimeoutExpired:
        kill(process)
        out, err = process.communicate()
    return Ended(process.returncode, [json.loads(line) for line in out.splitlines() if line.endswith("}")], err)


def kill(process: subprocess.Popen[str]) -> None:
    """SIGKILL to the process and all of its children."""
    os.killpg(process.pid, signal.SIGKILL)


def timed_events(process: subprocess.Popen[str]) -> Iterator[tuple[float, dict[str, Any]]]:
    """A process' events as they come, each with the seconds since it was called."""
    began = time.monotonic()
    assert process.stdout is not None
    for line in process.stdout:
        yield time.monotonic() - began, json.loads(line)


def ledger_rows(path: Path) -> dict[str, list[tuple[Any, ...]]]:
    """Every table of a ledger, without moments and row numbers, in an order that does not depend on theirs."""
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as db:
        tables = [name for (name,) in db.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        return {table: _rows(db, table) for table in sorted(tables) if not table.startswith("sqlite_")}


def _rows(db: sqlite3.Connection, table: str) -> list[tuple[Any, ...]]:
    columns = [row[1] for row in db.execute(f"PRAGMA table_info({table})")]
    shown = [_CANDIDATE if c == "candidate_id" else f"{c} IS NULL" if c == "finished" else c for c in columns]
    kept = ", ".join(text for text, column in zip(shown, columns, strict=True) if column not in NEVER_THE_SAME)
    where = f" WHERE name NOT LIKE '{OF_LOGPROBS}%'" if table == "metrics" else ""
    return sorted(db.execute(f"SELECT {kept} FROM {table}{where}"), key=repr)


_CANDIDATE = "(SELECT purpose || round || prompt_key || k FROM candidates AS c WHERE c.id = candidate_id)"


def _bytes_that_count(path: Path) -> bytes:
    """A file's bytes; of what a run was started with, without the moment."""
    if path.name != "run.json":
        return path.read_bytes()
    record = json.loads(path.read_text(encoding="utf-8"))
    record["resolved"].pop("started", None)
    return json.dumps(record, sort_keys=True).encode()


def _path() -> str:
    return os.pathsep.join([str(ROOT), str(ROOT / "backends")])


def _lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def _write(path: Path, records: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(r, ensure_ascii=False) + "\n" for r in records), encoding="utf-8")
