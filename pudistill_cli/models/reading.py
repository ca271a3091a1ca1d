"""How the small files of a model are read: regular files only, of a bounded size, and JSON of a bounded shape.

A reader that trusts a file hangs on a pipe, fills the memory from /dev/zero, or overflows the stack at 1,000 brackets.
Every limit here is far above what real models have.
"""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NoReturn, TypeAlias, cast

from pudistill_cli.errors import DataError
from pudistill_cli.files.file_kinds import advice_for, kind_of, kind_of_file
from pudistill_cli.foreign_errors import as_data_error, reason_of

Json: TypeAlias = Any

COPY_AGAIN = "Download or copy the student again."
MOST_BYTES = 32 << 20
"""Of a config or an index: those of a model of 100,000 tensors have 12 MB."""
MOST_DEPTH = 64
"""Brackets within brackets. Real configs have 5."""
MOST_OBJECTS = 1 << 22
MOST_TEXTS = 1 << 23
"""Of JSON: Python takes up to 70 bytes for each, so that a short file could fill the memory."""


def read_bytes(path: Path, most: int = MOST_BYTES, advice: str = COPY_AGAIN) -> bytes:
    """A file's contents.

    Raises:
        DataError: it is not there, no regular file, larger than `most` bytes, or cannot be read.
    """
    try:
        # Without blocking: a pipe would wait for its writer.
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    except (OSError, ValueError) as error:
        raise unreadable(path, error, advice) from error
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise DataError(f"Cannot read {path}: it is {_what_it_is(status.st_mode)}, and no file.", advice)
        if status.st_size > most:
            reason = f"it has {status.st_size:,} bytes, and such a file has no more than {most:,}"
            raise DataError(f"Cannot read {path}: {reason}.", advice)
        with open(descriptor, "rb", closefd=False) as file:
            data = file.read(most + 1)
    except OSError as error:
        raise unreadable(path, error, advice) from error
    finally:
        os.close(descriptor)
    if len(data) > most:
        raise DataError(f"Cannot read {path}: it grew while it was read.", advice)
    return data


def check_regular(path: Path, advice: str = COPY_AGAIN) -> int:
    """The size of a file that a library is about to open.

    Raises:
        DataError: it is not there, or a folder, a pipe or a device.
    """
    try:
        status = path.stat()
    except (OSError, ValueError) as error:
        raise unreadable(path, error, advice) from error
    if not stat.S_ISREG(status.st_mode):
        raise DataError(f"Cannot read {path}: it is {_what_it_is(status.st_mode)}, and no file.", advice)
    return status.st_size


def read_text(path: Path, most: int = MOST_BYTES, advice: str = COPY_AGAIN) -> str:
    """A text file.

    Raises:
        DataError: as `read_bytes`, or it is no UTF-8 text.
    """
    data = read_bytes(path, most, advice)
    kind = kind_of(data)
    if kind is not None:
        raise DataError(f"Cannot read {path}: it is {kind}.", advice_for(kind, advice))
    with as_data_error(f"Cannot read {path}", advice):
        return data.decode("utf-8")


def read_object(path: Path, advice: str = COPY_AGAIN) -> dict[str, Json]:
    """A JSON object.

    Raises:
        DataError: as `read_bytes`, or it is no JSON object within the limits, or names a key twice.
    """
    return json_object(read_bytes(path, advice=advice), path, advice)


def json_object(data: bytes, path: Path, advice: str = COPY_AGAIN) -> dict[str, Json]:
    """What `read_object` gives, of contents that were read already."""
    try:
        value = parse_json(data)
    except (ValueError, RecursionError, MemoryError) as error:
        kind = kind_of(data)
        reason = f"it is {kind}" if kind else reason_of(error)
        raise DataError(f"Cannot read {path}: {reason}.", advice_for(kind, advice)) from error
    if not isinstance(value, dict):
        raise DataError(f"{path} is no JSON object.", advice)
    return cast("dict[str, Json]", value)


def parse_json(data: bytes, *, strictly: bool = True) -> Json:
    """JSON as UTF-8, within the limits; `strictly` says that no object has a key twice, or anything is nested deep.

    A tokenizer's library sees to both itself, and its file is so large that this takes as long as reading it.

    Raises:
        ValueError, RecursionError, MemoryError: it is none.
    """
    if data.count(b"[") + data.count(b"{") > MOST_OBJECTS or data.count(b'"') > 2 * MOST_TEXTS:
        raise ValueError("it holds too many values")
    if data.startswith(b"\xef\xbb\xbf"):
        raise ValueError("it begins with a byte-order mark; save it as UTF-8 without one")
    value = json.loads(data.decode("utf-8"), object_pairs_hook=_unique if strictly else None)
    if strictly:
        _check_shape(value)
    return value


def unreadable(path: Path, error: BaseException, advice: str = COPY_AGAIN) -> DataError:
    """The message for a file that the system does not give."""
    shown = str(path).encode("utf-8", "backslashreplace").decode().replace("\0", "\\0")
    return DataError(f"Cannot read {shown}: {reason_of(error)}.", advice_for(kind_of_file(path), advice))


def _unique(pairs: list[tuple[str, Json]]) -> dict[str, Json]:
    made = dict(pairs)
    if len(made) != len(pairs):
        _refuse_twice(key for key, _ in pairs)
    return made


def _refuse_twice(keys: Iterable[str]) -> NoReturn:
    seen: set[str] = set()
    for key in keys:
        if key in seen:
            raise ValueError(f"it says {key[:80]!r} twice")
        seen.add(key)
    raise AssertionError


def _check_shape(value: Json) -> None:
    """Without recursion, which is what it is about; texts must be such that a file or a terminal takes them."""
    level: list[Json] = [value]
    depth = 0
    while level:
        depth += 1
        if depth > MOST_DEPTH:
            raise ValueError(f"it is nested more than {MOST_DEPTH} deep")
        below: list[Json] = []
        for item in level:
            if isinstance(item, dict):
                pairs = cast("dict[str, Json]", item)
                below += pairs
                below += pairs.values()
            elif isinstance(item, list):
                below += cast("list[Json]", item)
            elif isinstance(item, str):
                item.encode("utf-8")  # a lone surrogate raises
        level = below


def _what_it_is(mode: int) -> str:
    kinds = {
        stat.S_ISDIR: "a folder",
        stat.S_ISFIFO: "a pipe",
        stat.S_ISSOCK: "a socket",
        stat.S_ISCHR: "a device",
        stat.S_ISBLK: "a device",
    }
    return next((name for test, name in kinds.items() if test(mode)), "something else")
