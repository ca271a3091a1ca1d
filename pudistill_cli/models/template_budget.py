"""How much work a chat template may do: counted, not timed, so that a busy machine refuses what a quiet one refuses.

One unit is about a character that is made or a node of the template that is evaluated: a fraction of a microsecond, and
at most a few bytes. Whatever a template does is paid for before it is done (template_sandbox.py, template_bounds.py).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, TypeVar, cast

import jinja2

T = TypeVar("T")

BASE = 8_000_000
"""Units of a rendering, whatever it is given: real templates take a thousandth for a short conversation (LOG.md)."""
PER_CHARACTER = 60
"""Units for each character of the conversation."""
PER_TURN = 20_000
ITEM = 8
"""Units of an item in a list or a mapping, and of a call."""
DIGITS = 1 << 16
"""Bits of the largest whole number."""

_CONTAINERS = (list, tuple, dict, set, frozenset)
_EMPTY: dict[Any, Any] = {}
_VIEWS = (type(_EMPTY.keys()), type(_EMPTY.values()), type(_EMPTY.items()))


class TooMuchWork(jinja2.TemplateError):
    """A template that would go on for very long, or fill the memory."""

    def __init__(self) -> None:
        super().__init__("it takes far more work or memory than a conversation needs")


class Budget:
    """What is left of one rendering's work."""

    __slots__ = ("left",)

    def __init__(self) -> None:
        self.left = BASE

    def spend(self, units: int) -> None:
        """Pay for what is about to be done.

        Raises:
            TooMuchWork: more than is left.
        """
        self.left -= units
        if self.left < 0:
            raise TooMuchWork

    def counted(self, items: Iterable[T], weight: int = ITEM) -> Iterator[T]:
        """The items, each paid for as it comes."""
        for item in items:
            self.spend(weight)
            yield item

    def measure(self, value: Any) -> int:
        """Pay for a walk over all of a value, as if nothing in it were shared; returns its size.

        A list that holds another one twice, and so on for forty levels, is small in memory and endless in print.
        """
        size = size_of(value, self.left)
        self.spend(size)
        return size

    def text(self, value: Any) -> str:
        """`str(value)`, paid for before it is made."""
        if type(value) is str:
            self.left -= len(value)  # `spend` without a call: most of what a template does
            if self.left < 0:
                raise TooMuchWork
            return value
        self.measure(value)
        made = str(value)
        self.spend(len(made))
        return made


def size_of(value: Any, most: int) -> int:
    """Characters and items of a value and of all that it holds, each time that it holds it; above `most`, anything."""
    total, stack = 0, [value]
    while stack and total <= most:
        item = stack.pop()
        total += ITEM
        if isinstance(item, str):
            total += len(item)
        elif isinstance(item, dict):
            held = cast("dict[Any, Any]", item)
            stack.extend(held)
            stack.extend(held.values())
        elif isinstance(item, (*_CONTAINERS, *_VIEWS)):
            stack.extend(cast("Iterable[Any]", item))
        elif isinstance(item, int):
            total += item.bit_length() >> 3
        elif isinstance(item, range):
            total += ITEM * len(item)
    return total


def shallow(value: Any) -> int:
    """Units of copying a value, but not what it holds."""
    if isinstance(value, str):
        return len(value)
    if isinstance(value, (*_CONTAINERS, *_VIEWS, range)):
        return ITEM * len(cast("list[Any]", value))
    return ITEM
