"""What a backend's call ends with where there was too little memory for it."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from typing import TypeVar

from pudistill_cli.errors import OutOfMemory

T = TypeVar("T")


@contextmanager
def told(what: str, is_shortage: Callable[[BaseException], bool]) -> Generator[None]:
    """Raise OutOfMemory for an error that the backend calls a shortage; `what` is a verb."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not is_shortage(error):
            raise
        raise OutOfMemory(
            f"There is not enough memory to {what}.", "Close other programs, or take a smaller model."
        ) from error


def watched(what: str, is_shortage: Callable[[BaseException], bool], results: Iterator[T]) -> Iterator[T]:
    """`results`, under `told`."""
    with told(what, is_shortage):
        yield from results
