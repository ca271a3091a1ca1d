"""One record of gold data: a preference, graded candidates, or an annotation as AlpacaEval writes it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias, cast

from pudistill_cli.files.input_lines import short, whole_text
from pudistill_cli.prompts import ROLES, prompt_key
from pudistill_cli.types import Message

Record: TypeAlias = Mapping[str, Any]
_LARGEST = 1e300
"""What is told apart by more has no mean."""


class Unannotated(ValueError):
    """An annotation that never came about (`"preference": null`)."""


@dataclass(frozen=True, slots=True)
class Gold:
    """Answers to one prompt and their grades."""

    key: str
    """Content hash of the prompt: the same prompt in several records is one cluster of the bootstrap."""
    messages: tuple[Message, ...]
    anchor: str | None
    """The reference answer, where the record has one."""
    texts: tuple[str, ...]
    grades: tuple[float, ...]
    """Higher is better; equal grades are a tie."""
    place: str
    """Where it stands in the file."""


def gold_of(value: Any, place: str) -> Gold:
    """Read one record; which kind it is, its keys tell.

    Raises:
        ValueError: what is wrong with it; Unannotated where its preference is null.
    """
    if not isinstance(value, dict):
        raise ValueError("not a JSON object")
    record = cast("Record", value)
    if "candidates" in record:
        texts, grades = _candidates(record["candidates"])
    elif "chosen" in record or "rejected" in record:
        texts, grades = (_answer(record, "chosen"), _answer(record, "rejected")), (1.0, 0.0)
    elif "output_1" in record or "output_2" in record:
        texts, grades = (_answer(record, "output_1"), _answer(record, "output_2")), _annotated(record)
    else:
        keys = ", ".join(record) or "nothing"
        raise ValueError(
            f"no `candidates`, no `chosen` and `rejected`, no `output_1` and `output_2` (it has {short(keys)})"
        )
    messages = _messages(record)
    anchor = next((_text(record[n], f"`{n}`") for n in ("anchor", "reference", "output") if record.get(n)), None)
    return Gold(prompt_key(messages), messages, anchor, texts, grades, place)


def _candidates(value: Any) -> tuple[tuple[str, ...], tuple[float, ...]]:
    if not isinstance(value, list) or len(cast("list[Any]", value)) < 2:
        raise ValueError("`candidates` must be a list of at least two answers")
    texts: list[str] = []
    grades: list[float] = []
    for i, item in enumerate(cast("list[Any]", value)):
        if not isinstance(item, dict):
            raise ValueError(f"candidates[{i}] is not an object")
        answer = cast("Record", item)
        texts.append(_text(answer.get("text"), f"candidates[{i}].text"))
        grades.append(_number(answer.get("grade"), f"candidates[{i}].grade"))
    return tuple(texts), tuple(grades)


def _annotated(record: Record) -> tuple[float, float]:
    """Grades of AlpacaEval's `preference`: 1 is the first output, 2 the second, 1.5 and 0 (its older form) a tie.

    Its weighted annotators give numbers between 1 and 2: 1 + p(the second is better).
    """
    if "preference" not in record:
        raise ValueError("no `preference`")
    if record["preference"] is None:
        raise Unannotated
    preference = _number(record["preference"], "`preference`") or 1.5
    if not 1 <= preference <= 2:
        raise ValueError(f"`preference` is {preference:g}; it must be 1 to 2, or 0 for a tie")
    return 2 - preference, preference - 1


def _messages(record: Record) -> tuple[Message, ...]:
    """The conversation, from `prompt` or `messages`, or `instruction` and `input` as Alpaca has them."""
    asked = next((n for n in ("prompt", "messages", "instruction") if n in record), None)
    if asked is None:
        raise ValueError("no `prompt`, `messages` or `instruction`")
    value = record[asked]
    if not isinstance(value, list):
        text = _text(value, f"`{asked}`")
        more = record.get("input") if asked == "instruction" else None
        return (Message("user", f"{text}\n\n{_text(more, '`input`')}" if more else text),)
    messages: list[Message] = []
    for i, item in enumerate(cast("list[Any]", value)):
        turn: Record = cast("Record", item) if isinstance(item, dict) else {}
        if turn.get("role") not in ROLES:
            raise ValueError(f"{asked}[{i}].role must be one of {', '.join(ROLES)}")
        messages.append(Message(turn["role"], _text(turn.get("content"), f"{asked}[{i}].content")))
    if not messages or messages[-1].role != "user":
        raise ValueError(f"`{asked}` must end with a message of the user")
    return tuple(messages)


def _answer(record: Record, name: str) -> str:
    """An answer's text; a list of messages, as preference files often have it, stands for its last one."""
    value = record.get(name)
    if isinstance(value, list) and value and isinstance(value[-1], dict):
        value = cast("Record", value[-1]).get("content")
    return _text(value, f"`{name}`")


def _text(value: Any, where: str) -> str:
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f"{where} must be a string that is not empty")
    return whole_text(value, where)


def _number(value: Any, where: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) <= _LARGEST:
        raise ValueError(f"{where} must be a number")
    return float(value)
