"""What a backend's call ends with where there was too little memory for it."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from typing import TypeVar

from pudistill_cli.errors import OutOfMemory

T = TypeVar("T")


@contextmanager
def as_out_of_memory(verb: str, is_out_of_memory: Callable[[BaseException], bool]) -> Generator[None]:
    """Raise OutOfMemory for an error of the framework's that means it; `verb` is what could not be done."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        raise OutOfMemory(
            f"There is not enough memory to {verb}.", "Close other programs, or take a smaller model."
        ) from error


def each_as_out_of_memory(
    verb: str, is_out_of_memory: Callable[[BaseException], bool], results: Iterator[T]
) -> Iterator[T]:
    """`results`, computed under `as_out_of_memory`."""
    with as_out_of_memory(verb, is_out_of_memory):
        yield from results
