"""What can be in a file's place that is no file, or no text."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from random import Random

Make = Callable[[Path], object]


def _loop(path: Path) -> None:
    path.symlink_to(path.name)


def _long_way(path: Path) -> None:
    path.symlink_to("/".join(["x"] * 3) + "/" + "y" * 200)


_ODD: dict[str, Make] = {
    "a folder": lambda path: path.mkdir(),
    "a pipe": os.mkfifo,
    "a link to itself": _loop,
    "a link to nothing": _long_way,
    "/dev/zero": lambda path: path.symlink_to("/dev/zero"),
    "/dev/null": lambda path: path.symlink_to("/dev/null"),
    "/dev/full": lambda path: path.symlink_to("/dev/full"),
    "/proc/self/mem": lambda path: path.symlink_to("/proc/self/mem"),
    "empty": lambda path: path.write_bytes(b""),
    "latin-1": lambda path: path.write_bytes("Größe {{ messages }}".encode("latin-1")),
    "utf-16": lambda path: path.write_bytes('{"a": 1}'.encode("utf-16")),
    "with a mark": lambda path: path.write_bytes(b"\xef\xbb\xbf{}"),
    "nulls": lambda path: path.write_bytes(bytes(4096)),
    "a sparse terabyte": lambda path: _sparse(path, 1 << 40),
    "sparse gigabytes of an object": lambda path: _sparse(path, 1 << 33, b"{"),
    "a web page": lambda path: path.write_bytes(b"<!DOCTYPE html><html></html>"),
    "an LFS pointer": lambda path: path.write_bytes(
        b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"
    ),
    "a zip": lambda path: path.write_bytes(b"PK\x03\x04" + bytes(100)),
    "a GGUF": lambda path: path.write_bytes(b"GGUF" + bytes(100)),
}


def _sparse(path: Path, size: int, start: bytes = b"") -> None:
    path.write_bytes(start)
    os.truncate(path, size)


def odd(rng: Random) -> tuple[str, Make]:
    """(what it is, what makes it)."""
    return rng.choice(list(_ODD.items()))
