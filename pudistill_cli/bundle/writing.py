"""Writing a bundle: the same contents give the same bytes, and the file appears whole or not at all."""

from __future__ import annotations

import glob
import os
import shutil
import stat
import time
import zipfile
from collections.abc import Iterable
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import IO

from pudistill_cli.bundle.manifest import MANIFEST, Entry, Kind, Manifest, packing_day
from pudistill_cli.bundle.metering import OnBytes, summed
from pudistill_cli.bundle.names import MOST_FILES, names_problem
from pudistill_cli.errors import DataError, UsageError
from pudistill_cli.files.atomic_files import sync_folder

_EARLIEST = (1980, 1, 1, 0, 0, 0)
_PER_FILE = 1024
"""Bytes that a file's records and its line of the manifest take at most."""
_ABANDONED = 3600.0
"""Seconds after which a half-written bundle to which nothing was added is a killed process's."""


@dataclass(frozen=True, slots=True)
class Item:
    """A file to be packed."""

    name: str
    """In the bundle."""
    content: Path | bytes

    @property
    def size(self) -> int:
        """In bytes."""
        return len(self.content) if isinstance(self.content, bytes) else self.content.stat().st_size

    def opened(self) -> IO[bytes]:
        """To be read."""
        return BytesIO(self.content) if isinstance(self.content, bytes) else self.content.open("rb")


def check_output(out: Path) -> None:
    """See that a bundle can be written there.

    Raises:
        UsageError: something lies there already, or there is no such folder.
    """
    if os.path.lexists(out):
        raise UsageError(f"{out} is there already.", "Delete it, or name another file: -o FILE")
    if not out.parent.is_dir():
        raise UsageError(f"There is no folder {out.parent}.", "Make it, or name a file in another one: -o FILE")


def check_items(items: Iterable[Item]) -> None:
    """See that these files can be in one bundle.

    Raises:
        DataError: a name that means another file elsewhere, two that are one, or too many.
    """
    names = [item.name for item in items]
    if problem := names_problem([MANIFEST, *names]):
        raise DataError(f"This cannot be packed: {problem}.", "Rename the file.")
    if len(names) > MOST_FILES:
        raise DataError(f"These are {len(names):,} files; a bundle holds {MOST_FILES:,} at most.", "Leave some out.")


def write_bundle(out: Path, kind: Kind, items: Iterable[Item], on_bytes: OnBytes) -> Manifest:
    """Pack the items into `out`, readable for its owner only.

    Raises:
        UsageError: as `check_output`.
        DataError: as `check_items`; a file cannot be read, or the bundle cannot be written. Nothing is left of it.
    """
    items = sorted(items, key=lambda item: item.name)
    day = packing_day()
    check_output(out)
    check_items(items)
    temporary = out.with_name(f".{out.name}.{os.getpid()}.tmp")
    try:
        _remove_abandoned(out)
        _check_room(out, sum(item.size for item in items) + _PER_FILE * (len(items) + 1))
        with open(
            os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), 0o600), "wb"
        ) as new:
            with zipfile.ZipFile(new, "w", zipfile.ZIP_STORED) as archive:
                files = {item.name: _packed(archive, item, on_bytes) for item in items}
                manifest = Manifest(kind=kind, created=day, files=files)
                _packed(archive, Item(MANIFEST, manifest.to_json()), lambda n: None)
            new.flush()
            os.fsync(new.fileno())
        check_output(out)
        temporary.replace(out)
        sync_folder(out.parent)
    except OSError as error:
        where = f" ({error.filename})" if error.filename and str(error.filename) != str(temporary) else ""
        raise DataError(
            f"Cannot write {out}: {error.strerror or error}{where}.",
            "Check the permissions and the free space there, or name another place: -o FILE",
        ) from error
    finally:
        temporary.unlink(missing_ok=True)
    return manifest


def _packed(archive: zipfile.ZipFile, item: Item, on_bytes: OnBytes) -> Entry:
    info = zipfile.ZipInfo(item.name, _EARLIEST)
    info.create_system = 3
    info.external_attr = (stat.S_IFREG | 0o600) << 16
    with item.opened() as source, archive.open(info, "w", force_zip64=True) as member:
        size, digest = summed(source, on_bytes, member.write)
    return Entry(size=size, sha256=digest)


def _remove_abandoned(out: Path) -> None:
    """What processes that were killed over the same bundle left."""
    for path in out.parent.glob(f".{glob.escape(out.name)}.*.tmp"):
        if time.time() - path.stat().st_mtime > _ABANDONED:
            path.unlink()


def _check_room(out: Path, needed: int) -> None:
    free = shutil.disk_usage(out.parent).free
    if free < needed:
        raise DataError(
            f"The bundle takes {needed / 1e9:.1f} GB, and {free / 1e9:.1f} GB are free in {out.parent}.",
            "Make room, or name another place: -o FILE",
        )
