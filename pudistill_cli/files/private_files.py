"""Files and folders for their owner alone: prompts, answers and what was learned from them are nobody else's.

Whatever the umask: what libraries write is covered by a umask of our own, what we write by the mode it is created with.
Windows keeps such folders in the person's profile, and knows no modes.
"""

from __future__ import annotations

import os
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path

_OTHERS = 0o077
_umasks: list[int] = []
"""What was in force before each `owner_only` that is open."""


@contextmanager
def owner_only() -> Generator[None]:
    """Within the block every file and folder that this process makes is for its owner only."""
    _umasks.append(os.umask(_OTHERS))
    try:
        yield
    finally:
        os.umask(_umasks.pop())


@contextmanager
def as_others_are() -> Generator[None]:
    """Within the block the person's own umask is in force, for what several people may share: the hub's cache."""
    ours = os.umask(_umasks[0]) if _umasks else None
    try:
        yield
    finally:
        if ours is not None:
            os.umask(ours)


def private(path: str, flags: int) -> int:
    """An `opener`: a file that it creates is for its owner only."""
    return os.open(path, flags, 0o600)


def make_private_folder(path: Path) -> None:
    """Make a folder and those above it that are missing; those that are there stay as they are."""
    if not path.is_dir():
        make_private_folder(path.parent)
        path.mkdir(0o700, exist_ok=True)
        tighten(path)  # a default ACL of the parent goes before the mode


def make_private_database(path: Path) -> None:
    """See that a SQLite file is there for its owner only, and so what SQLite writes beside it."""
    with suppress(OSError):  # SQLite says it better
        open(path, "ab", opener=private).close()
    for name in (path.name, f"{path.name}-wal", f"{path.name}-shm", f"{path.name}-journal"):
        tighten(path.with_name(name))


def tighten(path: Path) -> None:
    """Take from others what an older version, which did not look to it, has let them have; one's own files only."""
    if os.name == "nt":
        return
    with suppress(OSError):
        held = path.stat()
        if held.st_mode & _OTHERS and held.st_uid == os.geteuid():
            path.chmod(held.st_mode & 0o7777 & ~_OTHERS)
