"""A SQLite file with a schema version, in WAL mode; its errors become sentences. And JSON for its columns."""

from __future__ import annotations

import json
import math
import sqlite3
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from pudistill_cli.errors import RunError
from pudistill_cli.files.private_files import make_private_database
from pudistill_cli.files.sqlite_transaction import committed_together


class SqliteFile:
    """An open file; `schema` is what an empty one gets, `migrations` take a file from their version to the next one.

    `before_write` is called before the first change of it.

    Raises:
        RunError: it cannot be used, or its version is newer than `version`. So does every method.
    """

    def __init__(
        self,
        path: Path,
        schema: str,
        version: int,
        migrations: Mapping[int, str] = {},
        before_write: Callable[[], None] = lambda: None,
    ) -> None:
        self.path = path
        self._before_write: Callable[[], None] | None = before_write
        make_private_database(path)
        with self._errors():
            self._db = sqlite3.connect(path, timeout=30.0, isolation_level=None)
        try:
            with self._errors():
                self._prepare(schema, version, migrations)
        except BaseException:
            self._db.close()
            raise

    def close(self) -> None:
        """Close the file."""
        self._db.close()

    def rows(self, query: str, *values: Any) -> list[Any]:
        """What a query gives."""
        with self._errors():
            return self._db.execute(query, values).fetchall()

    @contextmanager
    def transaction(self) -> Generator[sqlite3.Connection]:
        """Everything inside is committed together, or nothing is."""
        self._about_to_write()
        with self._errors(), committed_together(self._db) as db:
            yield db

    def _prepare(self, schema: str, version: int, migrations: Mapping[int, str]) -> None:
        (held,) = self._db.execute("PRAGMA user_version").fetchone()
        if held > version:
            raise RunError(
                f"{self.path} was written by a newer pudistill: its schema has version {held}, "
                f"this one reads version {version}.",
                "Upgrade: pip install -U pudistill",
            )
        self._db.execute("PRAGMA journal_mode = WAL")
        # In WAL this keeps every commit through a kill, and their order through a power cut.
        self._db.execute("PRAGMA synchronous = NORMAL")
        if held < version:
            self._about_to_write()
        if held == 0:
            self._db.executescript(f"BEGIN; {schema} PRAGMA user_version = {version}; COMMIT;")
        for older in range(held, version) if held else ():
            # A table is migrated by being made anew, while nothing that refers to it is checked.
            self._db.executescript(f"BEGIN; {migrations[older]} PRAGMA user_version = {older + 1}; COMMIT;")
        self._db.execute("PRAGMA foreign_keys = ON")

    def _about_to_write(self) -> None:
        if self._before_write is not None:
            self._before_write()
            self._before_write = None

    @contextmanager
    def _errors(self) -> Generator[None]:
        try:
            yield
        except sqlite3.Error as error:
            raise RunError(
                f"{self.path} cannot be used: {error}.",
                "Check the permissions and the free space of its folder.",
            ) from error


class Tables:
    """Some of a file's tables."""

    def __init__(self, file: SqliteFile) -> None:
        self._file = file


def to_json(value: Any) -> str:
    """Compact JSON. Arrays become lists, floats come back to the last bit, what is not finite is null."""
    return json.dumps(_plain(value), ensure_ascii=False, separators=(",", ":"), allow_nan=False)


def _plain(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return _plain(cast("NDArray[Any]", value).tolist())
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in cast("Mapping[str, Any]", value).items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in cast("Sequence[Any]", value)]
    return value
