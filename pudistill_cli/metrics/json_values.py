"""The metric `json`: an answer as a JSON value, compared as a whole or by weighted fields."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import field
from decimal import Decimal
from typing import Annotated, Any, cast

from pydantic import BeforeValidator, Field
from pydantic.dataclasses import dataclass

from pudistill_cli.metrics.metric import Metric
from pudistill_cli.metrics.settings import SETTINGS, Weight, Word

_MISSING = object()


def json_equal(answer: str, reference: str) -> float:
    """1 where both are the same JSON value: keys in any order, numbers by value. 0 where either is no JSON."""
    a, b = _parsed(answer), _parsed(reference)
    return float(a is not _MISSING and b is not _MISSING and _equal(a, b))


def _weighted(value: Any) -> Any:
    """A list of fields is a mapping with the weight 1 for each; of one that comes twice nothing is hidden."""
    if isinstance(value, list | tuple) and all(isinstance(name, str) for name in cast("list[Any]", value)):
        names = cast("list[str]", value)
        if len(set(names)) == len(names):
            return dict.fromkeys(names, 1.0)
    return cast("Any", value)


Fields = Annotated[dict[Word, Weight], Field(min_length=1), BeforeValidator(_weighted)]


@dataclass(frozen=True, config=SETTINGS)
class Json(Metric):
    """Whether an answer is the reference's JSON value; with `fields`, how much of their weight is as it is there."""

    fields: Fields | None = field(default=None)
    """Weights by field. "a.b" is the field b of the object a, and "a.0" the first item of the list a."""

    name = "json"

    @property
    def is_share(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        """A part of the fields may be right."""
        return self.fields is None

    def __call__(self, answer: str, reference: str, prompt: str) -> float:
        """From 0 to 1. Fields that neither has do not count; where neither has any, the answer is right."""
        if self.fields is None:
            return json_equal(answer, reference)
        a, b = _parsed(answer), _parsed(reference)
        if a is _MISSING or b is _MISSING:
            return 0.0
        pairs = [(weight, _at(a, name), _at(b, name)) for name, weight in self.fields.items()]
        counted = [(weight, x, y) for weight, x, y in pairs if x is not _MISSING or y is not _MISSING]
        return _share([(weight, _equal(x, y)) for weight, x, y in counted]) if counted else 1.0

    def alone(self, answer: str) -> float:
        """Whether it is JSON; with `fields`, how much of their weight is there."""
        value = _parsed(answer)
        if self.fields is None or value is _MISSING:
            return float(value is not _MISSING)
        return _share([(weight, _at(value, name) is not _MISSING) for name, weight in self.fields.items()])

    def problem(self, reference: str) -> str | None:
        """It is no JSON, or has none of the fields."""
        value = _parsed(reference)
        if value is _MISSING:
            return "is no JSON"
        if self.fields is not None and all(_at(value, name) is _MISSING for name in self.fields):
            return f"has none of the fields {', '.join(self.fields)}"
        return None


def _share(weighed: Sequence[tuple[float, bool]]) -> float:
    return sum(weight for weight, right in weighed if right) / sum(weight for weight, _ in weighed)


def _parsed(text: str) -> Any:
    """The text's value; `_MISSING` where it is no JSON."""
    try:
        return json.loads(text, parse_int=Decimal, parse_float=Decimal, parse_constant=_no_number)
    except (ValueError, RecursionError, ArithmeticError):  # the last: an exponent beyond Decimal's
        return _MISSING


def _no_number(name: str) -> Any:
    raise ValueError(f"{name} is no JSON")


def _at(value: Any, path: str) -> Any:
    """What is at a path; a key that is the whole rest of the path, dots and all, goes before the way down."""
    rest: str = path
    while True:
        if isinstance(value, dict):
            keys = cast("dict[str, Any]", value)
            if rest in keys:
                return keys[rest]
            first, dot, rest = rest.partition(".")
            value = keys.get(first, _MISSING) if dot else _MISSING
        elif isinstance(value, list):
            items = cast("list[Any]", value)
            first, dot, rest = rest.partition(".")
            is_place = first.isascii() and first.isdigit() and len(first) < 10 and int(first) < len(items)
            value = items[int(first)] if is_place else _MISSING
            if not dot:
                return value
        else:
            return _MISSING


def _equal(a: Any, b: Any) -> bool:
    """Whether two values are the same; not, where they are nested deeper than Python can follow."""
    try:
        return _same(a, b)
    except RecursionError:
        return False


def _same(a: Any, b: Any) -> bool:
    """Equality of JSON values; Python's own would have true equal to 1."""
    if isinstance(a, dict) and isinstance(b, dict):
        left, right = cast("Mapping[str, Any]", a), cast("Mapping[str, Any]", b)
        return left.keys() == right.keys() and all(_same(left[k], right[k]) for k in left)
    if isinstance(a, list) and isinstance(b, list):
        first, second = cast("list[Any]", a), cast("list[Any]", b)
        return len(first) == len(second) and all(map(_same, first, second))
    return isinstance(a, bool) == isinstance(b, bool) and a == b
