"""One bit flipped in each file of a finished run: it is noticed, and mended or named, and spreads nowhere."""

from __future__ import annotations

import random
import shutil
from dataclasses import dataclass
from pathlib import Path

from benchmarks.attacks.small_run import SmallRun, SmallRunAt

MENDED, NAMED, UNREAD, SPREAD = "mended", "named", "not read", "spread"
WRITTEN_ANEW = ("report.html",)
"""By every run that ends, from the ledger; nothing is made of what was there."""


@dataclass(frozen=True)
class Flip:
    """What came of one flipped bit."""

    file: str
    outcome: str
    """`mended`: the run ended with the bytes it had before. `named`: it ended with an error that names the file.
    `not read`: nothing but the file itself differs, and nothing is made of it. `spread`: something else differs."""
    said: bool
    """Whether the file was named."""
    tracebacks: int
    hangs: int


def flip_bits(folder: Path, backend: str, seed: int, only: str = "") -> list[Flip]:
    """A finished run, then the same with a bit flipped, once for each of its files; the same command is typed again.

    Where `only` is given, of the files alone whose path begins with it.
    """
    recipe = SmallRun.make(folder / f"bits-{backend}", backend)
    over = recipe.run.finish()
    if over.code:
        raise SystemExit(f"The quiet run ended with {over.code}:\n{over.said}")
    quiet = SmallRunAt(recipe, recipe.folder / "quiet")
    shutil.copytree(recipe.run.runs, quiet.runs)
    rng = random.Random(seed)
    return [_flip(recipe.run, quiet, path, rng) for path in _files(quiet.path) if str(path).startswith(only)]


def _files(run: Path) -> list[Path]:
    """The run's files, but for SQLite's lock, which is empty."""
    return sorted(p.relative_to(run) for p in run.rglob("*") if p.is_file() and p.stat().st_size)


def _flip(run: SmallRunAt, quiet: SmallRunAt, file: Path, rng: random.Random) -> Flip:
    shutil.rmtree(run.runs, ignore_errors=True)
    shutil.copytree(quiet.runs, run.runs)
    data = bytearray((run.path / file).read_bytes())
    data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    (run.path / file).write_bytes(data)
    over = run.finish()
    said = any(name in over.said for name in (str(file), file.name, str(file.parent)) if name != ".")
    return Flip(str(file), _outcome(run, quiet, file, over.code), said, int(over.has_traceback), int(over.code == -9))


def _outcome(run: SmallRunAt, quiet: SmallRunAt, file: Path, code: int) -> str:
    if code:
        return NAMED
    expected, found = quiet.contents(), run.contents()
    differing = {name for name in expected | found if expected.get(name) != found.get(name)}
    if differing - {str(file)}:
        return SPREAD
    if str(file) in WRITTEN_ANEW:
        return UNREAD
    return MENDED if (run.path / file).read_bytes() == (quiet.path / file).read_bytes() else UNREAD
