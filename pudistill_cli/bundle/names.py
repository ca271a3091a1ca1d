"""Names of files in a bundle: those that mean the same place on every system, below the folder it is opened in."""

from __future__ import annotations

import re
from collections.abc import Iterable

MOST_FILES = 10_000
_LONGEST = 200
_DEEPEST = 8
_PART = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._+=@-]*")
_DEVICE = re.compile(r"(con|prn|aux|nul|com[0-9]|lpt[0-9])(\..*)?", re.IGNORECASE)
"""What Windows takes for a device, whatever folder it is in."""


def name_problem(name: str) -> str | None:
    """Why a file of a bundle cannot have this name; None where it can."""
    if not name or len(name) > _LONGEST:
        return f"its name has {len(name):,} characters" if name else "it has no name"
    if name.startswith("/"):
        return "its path is absolute"
    if "\\" in name:
        return "its path has a backslash"
    if re.match(r"[A-Za-z]:", name):
        return "its path has a drive letter"
    parts = name.split("/")
    if ".." in parts:
        return "its path leads out of the bundle"
    if len(parts) > _DEEPEST:
        return f"its path has {len(parts):,} parts"
    if not all(_PART.fullmatch(part) and not part.endswith(".") for part in parts):
        return "its name has parts that are not made of letters, digits and . _ + = @ -"
    if any(_DEVICE.fullmatch(part) for part in parts):
        return "it has the name of a device"
    return None


def names_problem(names: Iterable[str]) -> str | None:
    """Why files of these names cannot be in one bundle: each on its own, or because two would be one place."""
    files: dict[str, str] = {}
    for name in names:
        if problem := name_problem(name):
            return f"{shown(name)}: {problem}"
        key = name.lower()
        if key in files:
            return (
                f"{name} comes twice" if files[key] == name else f"{files[key]} and {name} are one file on some disks"
            )
        files[key] = name
    spelled: dict[str, str] = {}
    for key, name in files.items():
        ends = [i for i, letter in enumerate(key) if letter == "/"]
        for folder, as_written in ((key[:end], name[:end]) for end in ends):
            if folder in files:
                return f"{files[folder]} is a file, and {name} lies below it"
            if spelled.setdefault(folder, as_written) != as_written:
                return f"{spelled[folder]} and {as_written} are one folder on some disks"
    return None


def shown(name: str) -> str:
    """A name from an archive, for a message: no character of it acts on a terminal."""
    return ascii(name if len(name) <= 80 else f"{name[:79]}…")
