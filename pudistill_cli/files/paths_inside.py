"""Whether a path that a file names stays in the folder that the file lies in."""

from __future__ import annotations

import os
import re
from pathlib import Path, PurePosixPath, PureWindowsPath

RUN_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
"""What names a run: one folder among the runs, on any system."""


def leads_inside(folder: Path, path: Path) -> bool:
    """Whether a path, links followed, ends in a folder or below it, whatever is there or not.

    Raises:
        ValueError: no system has such a path.
    """
    inside, found = real_path(folder), real_path(path)
    return inside in (found, *found.parents)


def goes_up(name: str) -> bool:
    """Whether a name is more than a way down: it begins at a root or a drive, or has "..", as any system reads it."""
    posix, windows = PurePosixPath(name), PureWindowsPath(name)
    return bool(posix.root or windows.root or windows.drive) or ".." in (*posix.parts, *windows.parts)


def real_path(path: Path) -> Path:
    """An absolute path without links, as far as there is something.

    Raises:
        ValueError: no system has such a path.
    """
    return Path(os.path.realpath(path))
