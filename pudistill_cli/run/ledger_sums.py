"""The ledger's SHA-256 sums of what the run keeps beside it: adapters, learner's states, exports, results."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping
from typing import TypeAlias

from pudistill_cli.config.stages import Stage
from pudistill_cli.run.rollouts import round_of
from pudistill_cli.run.sqlite_file import Tables

Sums: TypeAlias = Mapping[str, Mapping[str, str]]
"""By name below the run's folder (`adapters/sft`, `results.json`), the SHA-256 of each file in it; of a file, as ""."""


class SumTables(Tables):
    """What was written, to be compared with what lies there when it is used again (run/kept.py)."""

    def keep_sums(self, sums: Sums) -> None:
        """These sums; of each name, instead of those that were kept of it."""
        with self._file.transaction() as db:
            insert_sums(db, sums)

    def sums(self) -> dict[str, dict[str, str]]:
        """All sums that are kept, by name, then by file."""
        found: dict[str, dict[str, str]] = {}
        for name, file, digest in self._file.rows("SELECT name, file, sha256 FROM sums ORDER BY name, file"):
            found.setdefault(name, {})[file] = digest
        return found

    def forget_sums(self, *names: str) -> None:
        """Of what is removed, or about to be."""
        with self._file.transaction() as db:
            db.executemany("DELETE FROM sums WHERE name = ?", [(name,) for name in names])


def made_by(name: str) -> Stage:
    """The stage that writes what is kept under a name."""
    if name.startswith("export/"):
        return Stage.EXPORT
    if name.startswith(("adapters/", "state/")):
        return Stage.PREFER if round_of(name) else Stage.SFT
    return Stage.EVAL


def insert_sums(db: sqlite3.Connection, sums: Sums) -> None:
    """As `keep_sums`, in a transaction that has more to do."""
    db.executemany("DELETE FROM sums WHERE name = ?", [(name,) for name in sums])
    rows = [(name, file, digest) for name, files in sums.items() for file, digest in files.items()]
    db.executemany("INSERT INTO sums VALUES (?, ?, ?)", rows)
