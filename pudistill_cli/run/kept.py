"""What a run keeps beside its ledger, compared with the ledger's sums before it is used again.

A file that is damaged is put back from a copy, where the run has another file of the same content: the learner's state
holds the adapter too, and so does its export.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pudistill_cli.files.atomic_files import cannot_write, write_atomic
from pudistill_cli.files.file_sums import file_sum, folder_sums
from pudistill_cli.run.ledger_sums import Sums

_SHOWN = 16
"""Digits of a sum in a message."""


@dataclass(frozen=True, slots=True)
class Damage:
    """A file that is not what was written."""

    name: str
    """What it belongs to, below the run's folder: `adapters/sft`."""
    file: str
    """Its path in that; empty where it is that."""
    what: str
    """What is the matter with it, in words."""
    expected: str
    """The SHA-256 of what was written; empty where that is not known."""

    @property
    def path(self) -> str:
        """Below the run's folder."""
        return f"{self.name}/{self.file}".rstrip("/")

    def __str__(self) -> str:
        return f"{self.path} {self.what}"


def sums_of(run: Path, *paths: Path) -> dict[str, dict[str, str]]:
    """The sums of folders and files below a run's folder, for the ledger to keep; what is not there has none.

    Raises:
        RunError: one of them cannot be read.
    """
    sums: dict[str, dict[str, str]] = {}
    for path in paths:
        try:
            of_path = folder_sums(path) if path.is_dir() else {"": file_sum(path)} if path.is_file() else {}
        except OSError as error:
            raise cannot_write(path, error) from error
        sums[path.relative_to(run).as_posix()] = of_path
    return sums


def damages(run: Path, sums: Sums) -> list[Damage]:
    """The files that are missing, cannot be read, or are not what was written; further files do not matter."""
    return [
        Damage(name, file, what, expected)
        for name, files in sums.items()
        for file, expected in files.items()
        if (what := _fault(run / name / file, expected)) is not None
    ]


def put_back(run: Path, sums: Sums, found: Sequence[Damage]) -> tuple[list[tuple[Damage, str]], list[Damage]]:
    """Write damaged files again from copies that the run has: those, each with its copy's path, and the others."""
    mended: list[tuple[Damage, str]] = []
    left: list[Damage] = []
    for damage in found:
        copies = [
            f"{name}/{file}".rstrip("/")
            for name, files in sums.items()
            for file, digest in files.items()
            if digest == damage.expected and (name, file) != (damage.name, damage.file)
        ]
        copy = next((c for c in copies if _fault(run / c, damage.expected) is None), None)
        if copy is None:
            left.append(damage)
        else:
            _copy(run / copy, run / damage.name / damage.file)
            mended.append((damage, copy))
    return mended, left


def _fault(path: Path, expected: str) -> str | None:
    try:
        found = file_sum(path)
    except (FileNotFoundError, NotADirectoryError):
        return "is missing"
    except OSError as error:
        return f"cannot be read ({error.strerror or error})"
    if found == expected:
        return None
    return f"has the SHA-256 {found[:_SHOWN]}..., and {expected[:_SHOWN]}... was written"


def _copy(source: Path, target: Path) -> None:
    try:
        if target.is_dir():
            shutil.rmtree(target)
        target.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(target, source.read_bytes())
    except OSError as error:
        raise cannot_write(target, error) from error
