"""Gold data in plain form: groups of answers to one prompt with their grades, read from JSONL or a JSON array."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from pudistill_cli.errors import DataError
from pudistill_cli.files.input_lines import counted, decoded, listed, numbered_lines, read_content
from pudistill_cli.judging.records import Gold, Unannotated, gold_of

FORMATS = (
    '{"prompt": ..., "anchor": ..., "chosen": ..., "rejected": ...}, '
    '{"prompt": ..., "anchor": ..., "candidates": [{"text": ..., "grade": ...}]} or '
    '{"instruction": ..., "output_1": ..., "output_2": ..., "preference": 1 or 2}'
)
_SHOWN = 20
"""Bad records named in one message; the others are counted."""


@dataclass(frozen=True, slots=True)
class GoldFile:
    """A file's groups in its order, and what the user should know of the rest."""

    groups: tuple[Gold, ...]
    notices: tuple[str, ...] = ()


def read_gold(path: Path) -> GoldFile:
    """Read gold preferences, graded candidates, or AlpacaEval's annotations: one JSON object a line, or one array.

    Raises:
        DataError: no such file, records that cannot be read (each with its number and the reason), or none that can.
    """
    groups: list[Gold] = []
    bad: list[str] = []
    unannotated = 0
    for place, record in _records(read_content(path, "the gold data", "Name a .jsonl or .json file.")):
        try:
            if isinstance(record, ValueError):
                raise record
            groups.append(gold_of(record, place))
        except Unannotated:
            unannotated += 1
        except ValueError as error:
            bad.append(f"{place}: {error}")
    if bad:
        lines = listed(bad, "\n  ", _SHOWN)
        raise DataError(
            f"{path}: {counted(len(bad), 'record')} cannot be read:\n  {lines}",
            f"Correct them, or take them out. A record is {FORMATS}.",
        )
    if not groups:
        raise DataError(f"{path} holds no judged answers.", f"A record is {FORMATS}.")
    notices = (f"{path}: {counted(unannotated, 'record')} without a preference left out.",) if unannotated else ()
    return GoldFile(tuple(groups), notices)


def _records(content: bytes) -> Iterator[tuple[str, Any]]:
    """Yield (where, the record), or in its place the ValueError that says why there is none."""
    lines = [(number, _text(line)) for number, line in numbered_lines(content)]
    texts = [text for _, text in lines if isinstance(text, str)]
    if not texts or not texts[0].lstrip().startswith("["):
        for number, text in lines:
            yield f"line {number}", _json(text) if isinstance(text, str) else text
        return
    bad = [(number, text) for number, text in lines if isinstance(text, ValueError)]
    if bad:
        yield from ((f"line {number}", error) for number, error in bad)
        return
    numbers = [1, *(number for number, _ in lines)]
    array = _json(
        "".join("\n" * (n - before) + text for n, before, text in zip(numbers[1:], numbers, texts, strict=False))
    )
    if isinstance(array, ValueError):
        yield "the array", array
        return
    for number, record in enumerate(cast("list[Any]", array), start=1):
        yield f"item {number}", record


def _text(line: bytes) -> str | ValueError:
    try:
        return decoded(line)
    except ValueError as error:
        return error


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        where = f"line {error.lineno}, " if error.lineno > 1 else ""
        return ValueError(f"not JSON ({error.msg} at {where}character {error.colno})")
    except RecursionError:
        return ValueError("not JSON of a sane depth")
    except ValueError:  # Python's own bound on digits
        return ValueError("not JSON: a number of more than 4,300 digits")
