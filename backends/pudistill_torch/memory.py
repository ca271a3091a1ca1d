"""Which errors mean that there was too little memory, and what a user is told then."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from contextlib import contextmanager
from typing import TypeVar

import torch

from pudistill_cli.errors import OutOfMemory
from pudistill_torch.model import Model

T = TypeVar("T")

_SHORTAGES = (
    "can't allocate memory",  # a CPU
    "MPS backend out of memory",
    "CUBLAS_STATUS_ALLOC_FAILED",  # cuBLAS, for its own workspace
)
"""In an exception's text, where there is no type for it."""


def is_shortage(error: BaseException) -> bool:
    """Whether a call may do better with fewer tokens in a pass."""
    known = isinstance(error, (torch.OutOfMemoryError, MemoryError))
    return known or any(text in str(error) for text in _SHORTAGES)


@contextmanager
def told(what: str, model: Model) -> Generator[None]:
    """Raise OutOfMemory for an error that is a shortage; `what` is a verb."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not is_shortage(error):
            raise
        raise OutOfMemory(
            f"There is not enough memory to {what}.",
            f"Halve the tokens of a pass: --set student.token_budget={model.spec.token_budget // 2}",
        ) from error


def watched(what: str, model: Model, results: Iterator[T]) -> Iterator[T]:
    """`results`, under `told`."""
    with told(what, model):
        yield from results
