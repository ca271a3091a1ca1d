"""Claims: a question that is on its way stands in the shared cache, so that no other run asks it at the same time."""

from __future__ import annotations

import os
import platform
import re
import sqlite3
import threading
import time
from collections.abc import Callable, Container
from contextlib import AbstractContextManager, closing, suppress
from dataclasses import dataclass
from pathlib import Path
from secrets import token_hex

BEAT = 5.0
"""Seconds between two signs of life of a process that holds claims."""
EXPIRES = 60.0
"""Seconds without a sign of life after which a claim is another's to take."""
LONGEST_STEP = 2.0
"""Seconds that one look at a claim adds to its silence at most, also where the machine slept or a clock jumped."""
TABLE = """
CREATE TABLE IF NOT EXISTS claims (
    key TEXT PRIMARY KEY,              -- as in answers
    owner TEXT NOT NULL,               -- the process that is asking: host, process id, random
    beat INTEGER NOT NULL DEFAULT 0,   -- goes up while its owner is at work
    claimed_at TEXT NOT NULL DEFAULT CURRENT_TIMESTAMP
) WITHOUT ROWID
"""

_TOKEN = re.compile(r"[0-9a-f]{16}")


@dataclass(slots=True)
class _Seen:
    """A claim of another process, as it was found, and for how long it has not changed."""

    owner: str
    beat: int
    silence: float = 0.0


class Claims:
    """The claims of this process in one cache file, and its view of those of others.

    A process is known to have ended by a lock that the system gives back, however it ends; one that hangs, by a count
    in its claims that no longer goes up. No clock is compared with another's. `open_transaction` begins a synced
    change of the cache's file.
    """

    def __init__(self, path: Path, open_transaction: Callable[[], AbstractContextManager[sqlite3.Connection]]) -> None:
        self._path = path
        self._transaction = open_transaction
        self._token = token_hex(8)
        self.owner = f"{platform.node()}:{os.getpid()}:{self._token}"
        self._lock: sqlite3.Connection | None = None
        self._beating: threading.Thread | None = None
        self._stopped = threading.Event()
        self._seen: dict[str, _Seen] = {}
        self._looked = time.monotonic()

    def take(self, key: str) -> bool:
        """Claim a question; False where another process has it."""
        self._show_life()
        with self._transaction() as db:
            db.execute("INSERT OR IGNORE INTO claims (key, owner) VALUES (?, ?)", (key, self.owner))
            [(owner,)] = db.execute("SELECT owner FROM claims WHERE key = ?", (key,)).fetchall()
        return owner == self.owner

    def release(self, key: str) -> None:
        """Give one claim back."""
        with self._transaction() as db:
            db.execute("DELETE FROM claims WHERE key = ? AND owner = ?", (key, self.owner))

    def release_all(self) -> None:
        """Give back whatever this process still claims."""
        if self._beating is not None:
            with self._transaction() as db:
                db.execute("DELETE FROM claims WHERE owner = ?", (self.owner,))

    def of_others(self, keys: Container[str]) -> set[str]:
        """Those of the questions that another process has claimed."""
        return {key for key, _, _ in self._others() if key in keys}

    def free_abandoned(self, keys: Container[str]) -> int:
        """Undo the claims on these questions whose owner has ended, or hangs; how many there were."""
        now = time.monotonic()
        step, self._looked = min(now - self._looked, LONGEST_STEP), now
        alive: dict[str, bool] = {}
        others = self._others()
        claimed = {key for key, _, _ in others}
        self._seen = {key: seen for key, seen in self._seen.items() if key in claimed}
        freed = 0
        for key, owner, beat in others:
            if key not in keys:
                continue
            if owner not in alive:
                alive[owner] = not self._has_ended(owner)
            seen = self._seen.get(key)
            if seen is None or (seen.owner, seen.beat) != (owner, beat):
                seen = self._seen[key] = _Seen(owner, beat)
            else:
                seen.silence += step
            if seen.silence >= EXPIRES or not alive[owner]:
                freed += self._undo(key, owner, beat)
        for owner in (owner for owner, lives in alive.items() if not lives):
            self._forget(owner)
        return freed

    def close(self) -> None:
        """Give every claim back, and show life no more until the next one is taken."""
        try:
            self.release_all()
        finally:
            if self._beating is not None:
                self._stopped.set()
                self._beating.join()
                self._beating = None
            if self._lock is not None:
                self._lock.close()
                self._lock = None
                self._lock_file(self._token).unlink(missing_ok=True)

    # --- others ---

    def _others(self) -> list[tuple[str, str, int]]:
        with self._transaction() as db:
            return db.execute("SELECT key, owner, beat FROM claims WHERE owner <> ?", (self.owner,)).fetchall()

    def _undo(self, key: str, owner: str, beat: int) -> int:
        """1 where the claim was still as it was seen: of several that look, one counts it."""
        with self._transaction() as db:
            changed = db.execute("DELETE FROM claims WHERE key = ? AND owner = ? AND beat = ?", (key, owner, beat))
        return changed.rowcount

    def _has_ended(self, owner: str) -> bool:
        """Whether the lock of a process is free. Where there is none, only its silence will tell."""
        lock = self._lock_of(owner)
        if lock is None or not lock.exists():
            return False
        try:
            with closing(sqlite3.connect(f"{lock.as_uri()}?mode=rw", uri=True, timeout=0, isolation_level=None)) as db:
                db.execute("BEGIN EXCLUSIVE")
        except sqlite3.Error:
            return False  # it is held; or it cannot be known
        return True

    def _forget(self, owner: str) -> None:
        """Remove the lock of a process that has ended, once it has no claim left."""
        lock, token = self._lock_of(owner), owner.rpartition(":")[2]
        if lock is not None and not any(other.endswith(token) for _, other, _ in self._others()):
            with suppress(OSError):
                lock.unlink()

    def _lock_of(self, owner: str) -> Path | None:
        token = owner.rpartition(":")[2]
        return self._lock_file(token) if _TOKEN.fullmatch(token) else None

    def _lock_file(self, token: str) -> Path:
        return self._path.resolve().with_name(f"{self._path.name}-{token}.owner")

    # --- this process ---

    def _show_life(self) -> None:
        """From the first claim on: a lock that ends with the process, and a thread that counts up."""
        if self._beating is not None:
            return
        lock = self._lock_file(self._token)
        try:
            self._lock = sqlite3.connect(lock, timeout=0, isolation_level=None)
            self._lock.execute("BEGIN EXCLUSIVE")
        except sqlite3.Error:  # no locks here, or no more files: the count alone has to do
            if self._lock is not None:
                self._lock.close()
                self._lock = None
            lock.unlink(missing_ok=True)
        for other in self._path.resolve().parent.glob(f"{self._path.name}-*.owner"):
            token = other.name.removeprefix(f"{self._path.name}-").removesuffix(".owner")
            if token != self._token and self._has_ended(token):  # killed while it claimed nothing, perhaps
                self._forget(token)
        self._stopped.clear()
        self._beating = threading.Thread(target=self._beat, name="claims", daemon=True)
        self._beating.start()

    def _beat(self) -> None:
        while not self._stopped.wait(BEAT):
            # A beat that cannot be written is made up for by a later one.
            with suppress(sqlite3.Error), closing(sqlite3.connect(self._path, isolation_level=None)) as db:
                db.execute("PRAGMA synchronous = NORMAL")
                db.execute("UPDATE claims SET beat = beat + 1 WHERE owner = ?", (self.owner,))
