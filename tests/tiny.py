"""A whole run in a few seconds: the quickstart's student, some of its prompts, and the command line in this process."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass, replace
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
import yaml

from pudistill_cli.app import main
from pudistill_cli.run.ledger_seal import unseal

ROOT = Path(__file__).resolve().parent.parent
QUICKSTART = ROOT / "recipes" / "quickstart"
STUDENT = QUICKSTART / "student"
SIZES = {"train": 16, "dev": 6, "test": 6}
FILES = {"train": "prompts.jsonl", "dev": "prompts-dev.jsonl", "test": "prompts-test.jsonl"}

SETTINGS: dict[str, Any] = {
    "name": "tiny",
    "student": {"model": str(STUDENT), "device": "cpu", "dtype": "float32", "threads": 1},
    "teacher": {"kind": "file", "path": "anchors.jsonl"},
    "prompts": {name: f"{name}.jsonl" for name in SIZES},
    "lora": {"r": 4, "alpha": 8.0},
    "sft": {"lr": 3.0e-3, "epochs": 1, "students": 1, "batch": 8, "rewrites": False},
    # Gates that let everything through: a student that has seen 16 anchors cannot rank.
    "rank": {"gate_prompts": 4, "min_anchor": 0.0, "min_kendall": -1.0, "view": "{prompt}\nreference: {anchor}"},
    "prefer": {"k": 2, "rounds": 2, "max_new_tokens": 24, "prior_start": 0.0, "prior_stop": 1.0},
    "train": {"groups_per_step": 8},
    "eval": {"metric": "json", "samples": 1, "temperatures": [1.0], "dev_temperatures": [0.0]},
}


def lines_of(path: Path, count: int | None = None) -> list[dict[str, Any]]:
    """The first records of a JSONL file."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()[:count]]


def write_lines(path: Path, records: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(r, ensure_ascii=False) + "\n" for r in records), encoding="utf-8")
    return path


def merged(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, Any]:
    """`old` with the settings of `new`, section by section; a setting of None goes, so does a section of None."""
    result = dict(old)
    for key, value in new.items():
        if key == "teacher" or not isinstance(value, dict) or not isinstance(result.get(key), dict):
            result[key] = value
        else:
            result[key] = merged(result[key], value)
    return {key: value for key, value in result.items() if value is not None}


@dataclass(frozen=True)
class Tiny:
    """A folder with a recipe, its prompts, its anchors, and `runs/`."""

    folder: Path
    """Holds the recipe, prompts and anchors."""
    runs: Path

    @classmethod
    def make(cls, folder: Path, **changes: Any) -> Tiny:
        """Write the files; `changes` are sections of the recipe, a None takes a setting out."""
        folder.mkdir(parents=True, exist_ok=True)
        for name, size in SIZES.items():
            write_lines(folder / f"{name}.jsonl", lines_of(QUICKSTART / FILES[name], size))
        asked = {r["prompt"] for name in SIZES for r in lines_of(folder / f"{name}.jsonl")}
        answers = [r for r in lines_of(QUICKSTART / "anchors.jsonl") if r["prompt"] in asked]
        write_lines(folder / "anchors.jsonl", answers)
        tiny = cls.at(folder)
        tiny.recipe.write_text(yaml.safe_dump(merged(SETTINGS, changes), sort_keys=False), encoding="utf-8")
        return tiny

    @classmethod
    def at(cls, folder: Path) -> Tiny:
        """Where `make` has written."""
        return cls(folder, folder / "runs")

    def copy(self, folder: Path) -> Tiny:
        """The same files, with a copy of the runs in `folder`."""
        shutil.copytree(self.runs, folder)
        return replace(self, runs=folder)

    @property
    def recipe(self) -> Path:
        return self.folder / "tiny.yaml"

    @property
    def run(self) -> Path:
        return self.runs / "tiny"

    def main(self, *options: str) -> int:
        """Run the recipe in this process and return the exit code."""
        return code_of(self.arguments(*options))

    def finish(self, *options: str) -> Ended:
        """Run the recipe outside of a test, with a cache of its own and nothing on the screen."""
        out, err = StringIO(), StringIO()
        with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(err):
            patch.setenv("PUDISTILL_CACHE", str(self.folder / "cache"))
            code = self.main(*options)
        assert code == 0, err.getvalue()
        (self.folder / "printed.json").write_text(json.dumps([out.getvalue(), err.getvalue()]), encoding="utf-8")
        return self.printed

    @property
    def printed(self) -> Ended:
        """What `finish` would have shown."""
        return Ended(0, *json.loads((self.folder / "printed.json").read_text(encoding="utf-8")))

    def arguments(self, *options: str) -> list[str]:
        """`pudistill run` of the recipe."""
        return ["run", str(self.recipe), "--runs", str(self.runs), *options]

    def rows(self, query: str, name: str = "tiny") -> list[Any]:
        """What plain SQL finds in the ledger."""
        with closing(sqlite3.connect(f"file:{self.runs / name / 'ledger.sqlite'}?mode=ro", uri=True)) as db:
            return db.execute(query).fetchall()

    @contextmanager
    def changed_ledger(self) -> Iterator[sqlite3.Connection]:
        """For plain SQL: nothing says afterwards that the file was another one before."""
        with closing(sqlite3.connect(self.run / "ledger.sqlite")) as db, db:
            yield db
        unseal(self.run / "ledger.sqlite")

    def value(self, query: str, name: str = "tiny") -> Any:
        ((value,),) = self.rows(query, name)
        return value

    def bytes_of(self, *patterns: str, name: str = "tiny") -> dict[str, bytes]:
        """Contents by path below the run, of the files that match."""
        run = self.runs / name
        found = {str(p.relative_to(run)): p.read_bytes() for pattern in patterns for p in run.glob(pattern)}
        assert found, f"nothing matches {patterns}"
        return found


@dataclass(frozen=True)
class Ended:
    """How a command ended."""

    code: int
    out: str
    err: str

    @property
    def events(self) -> list[dict[str, Any]]:
        """The lines of `--json`, each of which is strict JSON: NaN and Infinity are not."""

        def refuse(word: str) -> None:
            raise AssertionError(f"{word} is not JSON")

        return [json.loads(line, parse_constant=refuse) for line in self.out.splitlines()]

    @property
    def flat(self) -> str:
        """stderr as one line, so that where it was wrapped does not matter."""
        return " ".join(self.err.split())


def code_of(arguments: Sequence[str]) -> int:
    """The exit code of a command line, run in this process."""
    try:
        main(arguments)
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    return 0


def caller(capsys: pytest.CaptureFixture[str]) -> Callable[..., Ended]:
    """Commands of `pudistill` in this process."""

    def call(*arguments: str) -> Ended:
        capsys.readouterr()
        code = code_of(arguments)
        out, err = capsys.readouterr()
        return Ended(code, out, err)

    return call


def process(*arguments: str, folder: Path, hook: str = "", **environment: str) -> subprocess.Popen[str]:
    """`pudistill` in a process of its own; `hook` is Python that runs before it."""
    code = f"{hook}\nimport sys\nfrom pudistill_cli.app import main\nmain(sys.argv[1:])"
    return subprocess.Popen(
        [sys.executable, "-c", code, *arguments],
        cwd=folder,
        env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
