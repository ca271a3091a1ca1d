"""The seal of a run that nobody has open: the SHA-256 of its ledger, and of its recipe and the figures beside it.

SQLite has no sums, and takes a flipped bit for content. A run's folder is sealed when it is closed, and the first write
to the ledger removes the seal. So a ledger without one was left by a process that was killed, and is only looked at as
SQLite does it.
"""

from __future__ import annotations

import sqlite3
from contextlib import closing, suppress
from pathlib import Path

from pudistill_cli.errors import RunError
from pudistill_cli.files.atomic_files import cannot_write, sync_folder, write_atomic
from pudistill_cli.files.file_sums import file_sum

FIGURES, RECIPE = "metrics.jsonl", "recipe.yaml"


def seal_of(ledger: Path) -> Path:
    """The file that seals it."""
    return ledger.with_name("ledger.sha256")


def seal(ledger: Path) -> None:
    """Write the sums of a ledger that was closed; not while another program has it open, and may have more to say.

    Where there is no room for it there is no seal: whatever filled the disk has been said by then.
    """
    behind = ledger.with_name(f"{ledger.name}-wal")
    if seal_of(ledger).exists() or not ledger.is_file() or (behind.exists() and behind.stat().st_size):
        return
    with suppress(OSError, RunError):
        files = [file for file in (ledger, *map(ledger.with_name, (FIGURES, RECIPE))) if file.is_file()]
        write_atomic(seal_of(ledger), "".join(f"{file_sum(file)}  {file.name}\n" for file in files) * 2)


def unseal(ledger: Path) -> None:
    """It is about to be written to."""
    try:
        if seal_of(ledger).exists():
            seal_of(ledger).unlink()
            sync_folder(seal_of(ledger).parent)
    except OSError as error:
        raise cannot_write(seal_of(ledger), error) from error


def refuse_damaged_ledger(ledger: Path) -> None:
    """See that a ledger is what was closed, or where nobody closed it, that SQLite finds it whole.

    Raises:
        RunError: it is damaged, or gone.
    """
    expected = _expected(ledger, ledger.name)
    try:
        if not ledger.exists():
            problem = "is missing" if expected else None
        elif expected:
            found = file_sum(ledger)
            opened = _expected(ledger, ledger.name) != expected  # by a process that goes on with the run meanwhile
            problem = None if found == expected or opened else "has changed since the run was closed"
        else:
            problem = _faults(ledger)
    except OSError as error:
        problem = f"cannot be read ({error.strerror or error})"
    if problem:
        raise RunError(
            f"{ledger} is damaged: it {problem}.",
            "Put it back from a backup, or start the run again under another name (--name); answers that were paid for "
            f"are kept in the cache, and are not asked again. If you changed it yourself: delete {seal_of(ledger)}",
        )


def has_changed(ledger: Path, name: str) -> bool:
    """Whether a file beside it is not what it was when the run was closed; False where nobody closed it."""
    expected = _expected(ledger, name)
    try:
        return expected is not None and file_sum(ledger.with_name(name)) != expected
    except OSError:
        return True


def seal_is_damaged(ledger: Path) -> bool:
    """Whether there is a seal that says nothing."""
    return seal_of(ledger).exists() and _expected(ledger, ledger.name) is None


def _expected(ledger: Path, name: str) -> str | None:
    """What the seal says of a file; None without one, and where the seal is what was damaged."""
    try:
        lines = seal_of(ledger).read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError):
        return None
    half = len(lines) // 2
    sums = {line[66:]: line[:64] for line in lines[:half]}
    return sums.get(name) if lines[:half] == lines[half:] else None


def _faults(ledger: Path) -> str | None:
    try:
        with closing(sqlite3.connect(ledger, timeout=30.0)) as db:
            ((first,),) = db.execute("PRAGMA quick_check(1)").fetchall()
    except sqlite3.DatabaseError as error:
        return None if isinstance(error, sqlite3.OperationalError) else f"is no whole database ({error})"
    return None if first == "ok" else f"is no whole database ({first})"
