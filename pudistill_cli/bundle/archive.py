"""Reading a bundle: a zip archive of stored files, each checked against the manifest before anything is used.

Zip, because every system can look into one, its files can be found without reading the others, and its sizes have 64
bits. Stored, because weights do not shrink, and because what is not compressed cannot grow: the sizes of all files
together are bounded by the archive's own. Whatever a bundle that pudistill writes does not have is refused.
"""

from __future__ import annotations

import os
import stat
import struct
import zipfile
from contextlib import closing
from pathlib import Path
from types import TracebackType
from typing import IO

from pudistill_cli.bundle.manifest import MANIFEST, MOST_BYTES, Manifest, read_manifest
from pudistill_cli.bundle.metering import OnBytes, summed
from pudistill_cli.bundle.names import MOST_FILES, names_problem, shown
from pudistill_cli.errors import DataError
from pudistill_cli.files.file_kinds import advice_for, kind_of_file

SUFFIX = ".pudi"
_END = struct.Struct("<4s4H2LH")
_LOCATOR = struct.Struct("<4sLQL")
_END64 = struct.Struct("<4sQ2H2L4Q")
"""The records at the end of a zip archive (APPNOTE 4.3.16, 4.3.15, 4.3.14)."""
_MOST_DIRECTORY = 400 * MOST_FILES
_ASCII, _UTF8 = 0, 0x800
_UNREADABLE = (
    zipfile.BadZipFile, NotImplementedError, RuntimeError, ValueError, LookupError, struct.error, OSError, EOFError,
    OverflowError, MemoryError,
)  # fmt: skip
"""What reading a damaged archive ends with."""
_AGAIN = "Copy it again, or pack it again where it came from: pudistill bundle RECIPE -o FILE"


def is_bundle(path: Path) -> bool:
    """Whether a file is meant as a bundle: by its name, or as a zip archive by its first bytes."""
    return path.is_file() and (path.suffix.lower() == SUFFIX or "zip archive" in (kind_of_file(path) or ""))


class Bundle:
    """A bundle that is open to be read. Its directory and manifest agree; `check` and `extract` see to the contents.

    Raises:
        DataError: it is no bundle, is damaged or cut off, or holds what no bundle may hold.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        if not path.is_file():  # a pipe would be waited for
            raise DataError(f"There is no file {path}.", "Check the path.")
        try:
            self._file = path.open("rb")
        except OSError as error:
            raise DataError(f"Cannot read {path}: {error.strerror}.", "Check the path and its permissions.") from error
        try:
            self._archive = self._opened()
            self.manifest = self._checked()
        except BaseException:
            self._file.close()
            raise

    def check(self, on_bytes: OnBytes) -> None:
        """See that every file is what the manifest says.

        Raises:
            DataError: naming the first one that is not.
        """
        for name in sorted(self.manifest.files):
            self._copy(name, None, on_bytes)

    def extract(self, folder: Path, on_bytes: OnBytes, leave: str | None = None) -> None:
        """Write every file into an empty folder, checked as by `check`; readable for their owner only.

        What lies in the folder `leave` of the bundle is checked alone.

        Raises:
            DataError: as `check`; what was written until then is left there.
            OSError: the folder cannot be written.
        """
        for name in sorted(self.manifest.files):
            if leave is not None and name.startswith(f"{leave}/"):
                self._copy(name, None, on_bytes)
                continue
            target = folder / name
            for parent in reversed(target.relative_to(folder).parents):
                (folder / parent).mkdir(0o700, exist_ok=True)
            new = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), 0o600)
            with open(new, "wb") as out:
                self._copy(name, out, on_bytes)

    def __enter__(self) -> Bundle:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._archive.close()
        self._file.close()

    def unusable(self, reason: str, advice: str = _AGAIN) -> DataError:
        """The error for a bundle that is not used, and why."""
        return DataError(f"{self.path} cannot be used as a bundle: {reason}.", advice)

    def _opened(self) -> zipfile.ZipFile:
        try:
            if reason := _end_problem(self._file):
                raise self.unusable(reason, advice_for(kind_of_file(self.path), _AGAIN))
            return zipfile.ZipFile(self._file)
        except _UNREADABLE as error:
            raise self._damaged(error) from error

    def _checked(self) -> Manifest:
        members = self._archive.infolist()
        reason = names_problem(info.orig_filename for info in members)
        reason = reason or next((problem for info in members if (problem := _member_problem(info))), None)
        if reason:
            raise self.unusable(reason)
        sizes = {info.filename: info.file_size for info in members}
        if MANIFEST not in sizes:
            raise self.unusable(f"it has no {MANIFEST}")
        if sizes[MANIFEST] > MOST_BYTES:
            raise self.unusable(f"its {MANIFEST} has {sizes[MANIFEST]:,} bytes")
        try:
            manifest = read_manifest(self._archive.read(MANIFEST))
        except _UNREADABLE as error:
            raise self._damaged(error) from error
        del sizes[MANIFEST]
        for name in sorted(sizes.keys() | manifest.files.keys()):
            if name not in sizes:
                raise self.unusable(f"{name} is in its manifest, and not in the archive")
            if name not in manifest.files:
                raise self.unusable(f"{name} is not in its manifest")
            if sizes[name] != manifest.files[name].size:
                said = manifest.files[name].size
                raise self.unusable(f"{name} has {sizes[name]:,} bytes, and by the manifest {said:,}")
        if manifest.total > os.fstat(self._file.fileno()).st_size:
            raise self.unusable("its files overlap: together they are larger than the archive")
        return manifest

    def _copy(self, name: str, out: IO[bytes] | None, on_bytes: OnBytes) -> None:
        """Read a file to its end, writing it to `out`."""
        entry = self.manifest.files[name]
        try:
            member = self._archive.open(name)
        except _UNREADABLE as error:
            raise self._damaged(error, name) from error
        with closing(member):
            reader = _Reader(member)
            size, digest = summed(reader, on_bytes, out.write if out else lambda block: None)
        if reader.error is not None:
            raise self._damaged(reader.error, name) from reader.error
        if (size, digest) != (entry.size, entry.sha256):
            raise self.unusable(f"{name} is damaged: its SHA-256 is {digest}, and by the manifest {entry.sha256}")

    def _damaged(self, error: BaseException, name: str = "") -> DataError:
        if isinstance(error, DataError):
            return error
        where = f"{name} is damaged" if name else "it is damaged or cut off"
        return self.unusable(f"{where} ({ascii(str(error)[:120])[1:-1] or type(error).__name__})")


class _Reader:
    """A member whose reading ends at damage, so that an error of reading is told from one of writing."""

    def __init__(self, member: IO[bytes]) -> None:
        self._member = member
        self.error: Exception | None = None

    def read(self, n: int, /) -> bytes:
        try:
            return self._member.read(n)
        except _UNREADABLE as error:
            self.error = error
            return b""


def _end_problem(file: IO[bytes]) -> str | None:
    """What is wrong with the records at the end, before `zipfile` reads as much memory full as they say."""
    length = file.seek(0, os.SEEK_END)
    file.seek(max(0, length - _END.size - _LOCATOR.size - _END64.size))
    tail = file.read()
    if len(tail) < _END.size or not tail[-_END.size :].startswith(b"PK\x05\x06"):
        return "it is cut off, or no bundle"
    *_, count, size, start, comment = _END.unpack(tail[-_END.size :])
    first = length - _END.size
    if tail[: -_END.size][-_LOCATOR.size :].startswith(b"PK\x06\x07"):
        first -= _LOCATOR.size + _END64.size
        place = _LOCATOR.unpack(tail[-_END.size - _LOCATOR.size : -_END.size])[2]
        if place != first or not tail.startswith(b"PK\x06\x06"):
            return "the records at its end do not fit each other"
        *_, count, size, start = _END64.unpack(tail[: _END64.size])
    if comment or start + size != first:
        return "something stands before, behind or between its files"
    if count > MOST_FILES + 1 or size > _MOST_DIRECTORY:
        return f"it says that it holds {count:,} files, and a directory of {size:,} bytes"
    return None


def _member_problem(info: zipfile.ZipInfo) -> str | None:
    """Why a file of the archive is none that a bundle may hold."""
    name = shown(info.orig_filename)
    kind = stat.S_IFMT(info.external_attr >> 16)
    if info.filename != info.orig_filename:
        return f"{name} has two names"
    if kind not in (0, stat.S_IFREG):
        return f"{name} is {_KINDS.get(kind, 'no plain file')}"
    if info.compress_type != zipfile.ZIP_STORED or info.compress_size != info.file_size:
        return f"{name} is compressed, which no file of a bundle is"
    if info.flag_bits not in (_ASCII, _UTF8):
        return f"{name} is encrypted, or written in another way than a bundle's files"
    return None


_KINDS = {
    stat.S_IFLNK: "a link",
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}
