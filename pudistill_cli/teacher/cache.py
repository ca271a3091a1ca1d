"""The anchor cache, shared between runs: answers by content of teacher, parameters and messages; and claims."""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import astuple
from hashlib import blake2b
from pathlib import Path
from types import TracebackType

from pudistill_cli.errors import RunError
from pudistill_cli.files.private_files import make_private_database, make_private_folder
from pudistill_cli.files.sqlite_transaction import committed_together
from pudistill_cli.teacher.answers import Answer
from pudistill_cli.teacher.claims import TABLE as CLAIMS
from pudistill_cli.teacher.claims import Claims
from pudistill_cli.types import Message

VERSION = 2
"""1 had no claims."""
TIMEOUT = 30.0
"""Seconds to wait for another process that writes."""
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
            self._db = sqlite3.connect(path, timeout=TIMEOUT, isolation_level=None)
        try:
            with self._errors():
                self._prepare()
        except BaseException:
            self._db.close()
            raise
        self.claims = Claims(path, self._transaction)

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

    def put(self, identity: str, messages: Sequence[Message], answer: Answer) -> bool:
        """Commit an answer and give up the claim on its question; False where it is not kept.

        The first answer to a question stays. Errors are not kept: the next run asks again.
        """
        key = content_key(identity, messages)
        if answer.status == "error":
            self.claims.release(key)
            return False
        with self._transaction() as db:
            put = db.execute(
                f"INSERT OR IGNORE INTO answers (key, identity, {COLUMNS}) VALUES (?{', ?' * 8})",
                (key, identity, *astuple(answer)),
            )
            db.execute("DELETE FROM claims WHERE key = ? AND owner = ?", (key, self.claims.owner))
        return put.rowcount == 1

    def drop(self, identity: str, messages: Sequence[Message]) -> None:
        """Make room for another answer to a question."""
        with self._transaction() as db:
            db.execute("DELETE FROM answers WHERE key = ?", (content_key(identity, messages),))

    def close(self) -> None:
        """Give up the claims that are left, and close the file."""
        try:
            self.claims.close()
        finally:
            self._db.close()

    def __enter__(self) -> AnswerCache:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _prepare(self) -> None:
        self._use_wal()
        self._db.execute("PRAGMA synchronous = FULL")  # an answer may have cost money
        (version,) = self._db.execute("PRAGMA user_version").fetchone()
        if version > VERSION:
            raise RunError(
                f"The answer cache {self.path} was written by a newer pudistill (version {version}).",
                "Upgrade pudistill, or name another cache.",
            )
        with self._transaction() as db:
            db.execute(SCHEMA)
            db.execute(CLAIMS)
            db.execute(f"PRAGMA user_version = {VERSION}")

    def _use_wal(self) -> None:
        """Processes that make the file at the same time get into each other's way here, whatever the timeout is."""
        deadline = time.monotonic() + TIMEOUT
        while True:
            try:
                self._db.execute("PRAGMA journal_mode = WAL")
                return
            except sqlite3.OperationalError as error:
                if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                    raise
                time.sleep(0.01)

    @contextmanager
    def _transaction(self) -> Generator[sqlite3.Connection]:
        """Everything inside is committed together, or nothing is."""
        with self._errors(), committed_together(self._db) as db:
            yield db

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
