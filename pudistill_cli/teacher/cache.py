"""The anchor cache, shared between runs: answers by content of teacher, parameters and messages."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import astuple
from hashlib import blake2b
from pathlib import Path
from types import TracebackType

from pudistill_cli.errors import RunError
from pudistill_cli.private_files import make_private_database, make_private_folder
from pudistill_cli.teacher.answers import Answer
from pudistill_cli.types import Message

VERSION = 1
COLUMNS = "text, status, finish_reason, reasoning_stripped, prompt_tokens, completion_tokens, detail"
"""The fields of Answer, in their order."""
SCHEMA = """
CREATE TABLE IF NOT EXISTS answers (
    key TEXT PRIMARY KEY,              -- blake2b-128 of identity and messages
    identity TEXT NOT NULL,            -- kind, model and parameters of the teacher, as JSON
    text TEXT NOT NULL,
    status TEXT NOT NULL,              -- ok, refused, empty or truncated
    finish_reason TEXT NOT NULL,
    reasoning_stripped INTEGER NOT NULL,
    prompt_tokens INTEGER NOT NULL,
    completion_tokens INTEGER NOT NULL,
    detail TEXT NOT NULL,
    asked_at TEXT NOT NULL DEFAULT CURRENT_TIMESTAMP
) WITHOUT ROWID
"""


class AnswerCache:
    """A SQLite file (WAL) that several runs may use at once. Each `put` is a synced commit of its own.

    Raises:
        RunError: the file cannot be read or written, or belongs to a newer version.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        with self._errors():
            make_private_folder(path.parent)
            make_private_database(path)
            self._db = sqlite3.connect(path, timeout=30.0, isolation_level=None)
        try:
            with self._errors():
                self._prepare()
        except BaseException:
            self._db.close()
            raise

    def get(self, identity: str, messages: Sequence[Message]) -> Answer | None:
        """The answer of this teacher to these messages, if it was ever given."""
        with self._errors():
            row = self._db.execute(
                f"SELECT {COLUMNS} FROM answers WHERE key = ?",
                (content_key(identity, messages),),
            ).fetchone()
        if row is None:
            return None
        text, status, finish_reason, stripped, *rest = row
        return Answer(text, status, finish_reason, bool(stripped), *rest)

    def put(self, identity: str, messages: Sequence[Message], answer: Answer) -> None:
        """Commit an answer. Errors are not kept: the next run asks again."""
        if answer.status == "error":
            return
        with self._errors():
            self._db.execute(
                f"INSERT OR REPLACE INTO answers (key, identity, {COLUMNS}) VALUES (?{', ?' * 8})",
                (content_key(identity, messages), identity, *astuple(answer)),
            )

    def close(self) -> None:
        """Close the file."""
        self._db.close()

    def __enter__(self) -> AnswerCache:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _prepare(self) -> None:
        self._db.execute("PRAGMA journal_mode = WAL")
        self._db.execute("PRAGMA synchronous = FULL")  # an answer may have cost money
        (version,) = self._db.execute("PRAGMA user_version").fetchone()
        if version > VERSION:
            raise RunError(
                f"The answer cache {self.path} was written by a newer pudistill (version {version}).",
                "Upgrade pudistill, or name another cache.",
            )
        self._db.execute(SCHEMA)
        self._db.execute(f"PRAGMA user_version = {VERSION}")

    @contextmanager
    def _errors(self) -> Generator[None]:
        try:
            yield
        except (sqlite3.Error, OSError) as error:
            raise RunError(
                f"The answer cache {self.path} cannot be used: {error}.",
                "Check the permissions and free space of its folder. If the file is damaged, move it away.",
            ) from error


def content_key(identity: str, messages: Sequence[Message]) -> str:
    """Blake2b-128, in hex, of the canonical JSON of the teacher's identity and the messages."""
    content = json.dumps([identity, [[m.role, m.content] for m in messages]], separators=(",", ":"))
    return blake2b(content.encode(), digest_size=16).hexdigest()
