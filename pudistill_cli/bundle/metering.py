"""Bytes that pass through, summed and shown on a bar in mebibytes."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from hashlib import sha256
from typing import Protocol, TypeAlias

from pudistill_cli.terminal.console import Console
from pudistill_cli.terminal.progress import Bar

MIB = 1 << 20
OnBytes: TypeAlias = Callable[[int], None]


class Readable(Protocol):
    """A file, as far as it is read here."""

    def read(self, n: int, /) -> bytes:
        """The next bytes, n at most; none at the end."""
        ...


def blocks(file: Readable, on_bytes: OnBytes) -> Iterator[bytes]:
    """The rest of a file, a mebibyte at a time."""
    while block := file.read(MIB):
        on_bytes(len(block))
        yield block


def summed(file: Readable, on_bytes: OnBytes, write: Callable[[bytes], object] = lambda block: None) -> tuple[int, str]:
    """The size and the SHA-256 of the rest of a file, each block of which is written elsewhere on the way."""
    digest, size = sha256(), 0
    for block in blocks(file, on_bytes):
        digest.update(block)
        size += len(block)
        write(block)
    return size, digest.hexdigest()


@contextmanager
def metered(console: Console, title: str, total: int) -> Generator[OnBytes]:
    """A bar of so many bytes."""
    with console.bar(f"{title}, MiB", max(1, total // MIB), transient=True) as bar:
        yield _Meter(bar)


class _Meter:
    def __init__(self, bar: Bar) -> None:
        self._bar = bar
        self._bytes = 0

    def __call__(self, n: int) -> None:
        before, self._bytes = self._bytes // MIB, self._bytes + n
        if more := min(self._bytes // MIB, self._bar.total or 0) - before:
            self._bar.advance(more)
