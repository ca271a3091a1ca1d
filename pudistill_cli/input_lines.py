"""The lines of a file that a person wrote: numbered, read as JSON, and listed in a message where they are bad."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any, cast


def numbered_lines(content: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield each line that is not blank with its number, counted from 1; a byte order mark is left out."""
    for number, line in enumerate(content.removeprefix(b"\xef\xbb\xbf").split(b"\n"), start=1):
        if line.strip():
            yield number, line.removesuffix(b"\r")


def json_object(line: str) -> dict[str, Any]:
    """The JSON object that a line is.

    Raises:
        ValueError: it is none; the message says what is wrong, for a person.
    """
    try:
        value: Any = json.loads(line)
    except json.JSONDecodeError as error:
        raise ValueError(f"not JSON ({error.msg} at character {error.pos + 1})") from None
    except RecursionError:
        raise ValueError("not JSON of a sane depth") from None
    if not isinstance(value, dict):
        raise ValueError("not a JSON object")
    return cast("dict[str, Any]", value)


def counted(n: int, noun: str) -> str:
    """1 line, 2,000 lines."""
    return f"{n:,} {noun}" if n == 1 else f"{n:,} {noun}s"


def listed(items: Sequence[str], separator: str, most: int) -> str:
    """The first items, at `most` so many, and how many more there are."""
    shown = separator.join(items[:most])
    return shown if len(items) <= most else f"{shown}{separator}and {len(items) - most:,} more"
