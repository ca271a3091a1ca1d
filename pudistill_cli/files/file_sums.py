"""SHA-256 of files and folders: how the product knows that what lies on a disk is what was written there."""

from __future__ import annotations

from hashlib import file_digest, sha256
from pathlib import Path


def file_sum(path: Path) -> str:
    """The SHA-256 of a file's bytes, in hexadecimal.

    Raises:
        OSError: the file cannot be read.
    """
    with path.open("rb") as file:
        return file_digest(file, "sha256").hexdigest()


def folder_sums(folder: Path) -> dict[str, str]:
    """The SHA-256 of every file below a folder, by its path in it with '/' between the parts, in order.

    Raises:
        OSError: the folder or a file in it cannot be read.
    """
    files = sorted(p for p in folder.rglob("*") if p.is_file())
    return {p.relative_to(folder).as_posix(): file_sum(p) for p in files}


def sum_of(path: Path) -> str:
    """One SHA-256 for a file, or for a folder: there, of every file's name and bytes.

    Raises:
        OSError: something of it cannot be read.
    """
    if not path.is_dir():
        return file_sum(path)
    return sha256("".join(f"{digest}  {name}\n" for name, digest in folder_sums(path).items()).encode()).hexdigest()
