"""Prompts that no other set has."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, TypeVar


class Drawn(Protocol):
    """What a grammar draws."""

    @property
    def text(self) -> str:
        """The prompt."""
        ...


T = TypeVar("T", bound=Drawn)


def fresh(draw: Callable[[], T], size: int, taken: set[str]) -> list[T]:
    """`size` of them whose text is not in `taken`, which takes them up."""
    drawn: list[T] = []
    while len(drawn) < size:
        one = draw()
        if one.text not in taken:
            taken.add(one.text)
            drawn.append(one)
    return drawn
