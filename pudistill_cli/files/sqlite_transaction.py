"""Changes to a SQLite file that are there together or not at all."""

from __future__ import annotations

import sqlite3
from collections.abc import Generator
from contextlib import contextmanager


@contextmanager
def committed_together(db: sqlite3.Connection) -> Generator[sqlite3.Connection]:
    """Everything inside is committed together, or nothing is.

    Raises:
        sqlite3.Error: it cannot be begun or committed.
    """
    db.execute("BEGIN IMMEDIATE")
    try:
        yield db
        db.execute("COMMIT")
    except BaseException:
        if db.in_transaction:  # a full disk ends it by itself
            db.execute("ROLLBACK")
        raise
