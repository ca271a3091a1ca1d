"""What pydantic found wrong with a recipe, in a user's words: one problem a place in the file."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, cast

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from pudistill_cli.config.fields import sections_in
from pudistill_cli.config.yaml_lines import Dotted
from pudistill_cli.did_you_mean import did_you_mean

_NOT_A_MAPPING = ("model_type", "model_attributes_type", "dict_type")
_NOT_SHOWN = ("value_error", "objective", "metric", "missing", "extra_forbidden", *_NOT_A_MAPPING)


@dataclass(frozen=True, slots=True)
class Problem:
    """What is wrong, at which place; `line` where no key of the file stands there."""

    path: Dotted
    message: str
    line: int | None = None


def problems_of(error: ValidationError, data: dict[str, Any], model: type[BaseModel]) -> list[Problem]:
    """One problem for each place in `data`: what the members of a union say about it is joined by "or"."""
    by_place: dict[Dotted, list[str]] = {}
    for details in error.errors(include_url=False, include_input=False):
        path, value = _place(details, data)
        messages = by_place.setdefault(path, [])
        message = _message(details, model) + _shown(details, path, value)
        if message not in messages:
            messages.append(message)
    return [Problem(path, _joined(messages)) for path, messages in by_place.items()]


def _place(details: ErrorDetails, data: dict[str, Any]) -> tuple[Dotted, Any]:
    """The error's location without the union tags that pydantic puts into it, and the value there."""
    path: list[str] = []
    value: Any = data
    for part in details["loc"]:
        if isinstance(value, dict) and part in value:
            value = cast("dict[Any, Any]", value)[part]
            path.append(str(part))
        elif isinstance(value, list | tuple) and isinstance(part, int):
            value = cast("Sequence[Any]", value)[part]
            path.append(str(part))
    if details["type"] == "missing":
        path.append(str(details["loc"][-1]))
    if details["type"].startswith("union_tag"):
        path.append("kind")
    return tuple(path), cast("Any", value)


def _message(details: ErrorDetails, model: type[BaseModel]) -> str:
    kind, context = details["type"], details.get("ctx", {})
    if kind == "extra_forbidden":
        *section, key = details["loc"]
        return f"unknown key{did_you_mean(key, _keys_at(model, section))}"
    if kind == "missing":
        return "is required"
    if kind == "value_error":
        return str(context["error"])
    if kind.startswith("union_tag"):
        known = [str(m.model_fields["kind"].default) for m in _models_at(model, details["loc"])]
        return f"must be one of {', '.join(known)}"
    if kind == "too_short":
        return f"needs at least {context['min_length']}"
    if kind == "greater_than_equal" and 0 < context["ge"] < 1:
        return f"must be at least {context['ge']:g}"
    if kind in _NOT_A_MAPPING:
        return "must be a mapping of keys to values"
    return details["msg"].replace("Input should be", "must be")


def _shown(details: ErrorDetails, path: Dotted, value: Any) -> str:
    """' (got X)' for a short value. Never in `teacher:`, where a key may stand in the wrong place."""
    scalar = value is None or isinstance(value, bool | int | float | str)
    if not scalar or details["type"] in _NOT_SHOWN or path[:1] == ("teacher",) or len(str(value)) > 40:
        return ""
    return f" (got {value!r})"


def _joined(messages: Sequence[str]) -> str:
    """'must be A (got X) or must be B (got X)' as 'must be A or B (got X)'."""
    if len(messages) == 1:
        return messages[0]
    ends = {m[m.index(" (got ") :] for m in messages if " (got " in m}
    parts = [m.split(" (got ")[0] for m in messages]
    return " or ".join([parts[0], *(p.removeprefix("must be ") for p in parts[1:])]) + "".join(sorted(ends)[:1])


def _keys_at(model: type[BaseModel], section: Iterable[int | str]) -> list[str]:
    return [name for m in _models_at(model, section) for name in m.model_fields]


def _models_at(model: type[BaseModel], section: Iterable[int | str]) -> list[type[BaseModel]]:
    """The section's model at a pydantic location, or all of a union's where the location has no tag."""
    models: list[type[BaseModel]] = [model]
    for part in map(str, section):
        fields = [m.model_fields[part] for m in models if part in m.model_fields]
        if fields:
            models = [section for f in fields for section in sections_in(f.annotation)]
        else:
            models = [m for m in models if any(f.default == part for f in m.model_fields.values())]
    return models
