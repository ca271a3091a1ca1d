"""What the recipe's sections are made of: their base class, the types of their fields, and what a change of one redoes.

Each field carries the first stage that it matters for, as `Annotated[..., Stage.SFT]`: run/identity.py reads it there.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal, TypeAlias, get_args

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field
from pydantic.fields import FieldInfo

_COLDEST = 1e-3
"""Of the temperatures above 0: logits divided by much less are no numbers."""


def _greedy_or_warm(value: float) -> float:
    if 0 < value < _COLDEST:
        raise ValueError(f"must be 0 (greedy) or at least {_COLDEST}")
    return value


Count: TypeAlias = Annotated[int, Field(ge=1, le=1_000_000_000, strict=True)]
"""Bounds that no use meets: a test finds every number of the recipe that has none."""
Natural: TypeAlias = Annotated[int, Field(ge=0, le=1_000_000_000, strict=True)]
Few: TypeAlias = Annotated[int, Field(ge=1, le=10_000, strict=True)]
Rounds: TypeAlias = Annotated[int, Field(ge=0, le=10_000, strict=True)]
GroupSize: TypeAlias = Annotated[int, Field(ge=2, le=10_000, strict=True)]
Seed: TypeAlias = Annotated[int, Field(ge=0, le=2**63 - 1, strict=True)]
Positive: TypeAlias = Annotated[float, Field(ge=1e-12, le=1e6, strict=True)]
NonNegative: TypeAlias = Annotated[float, Field(ge=0, le=1e6, strict=True)]
Rate: TypeAlias = Annotated[float, Field(ge=1e-12, le=1e6, strict=True)]
Heat: TypeAlias = Annotated[float, Field(ge=0, le=100, strict=True), AfterValidator(_greedy_or_warm)]
"""A temperature, 0 being greedy."""
PositiveHeat: TypeAlias = Annotated[float, Field(ge=_COLDEST, le=100, strict=True)]
Share: TypeAlias = Annotated[float, Field(ge=0, le=1, strict=True)]
PositiveShare: TypeAlias = Annotated[float, Field(ge=1e-6, le=1, strict=True)]
Flag: TypeAlias = Annotated[bool, Field(strict=True)]
Text: TypeAlias = Annotated[str, Field(min_length=1)]
Name: TypeAlias = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=100)]
Auto: TypeAlias = Literal["auto"]
CountOrAuto: TypeAlias = Annotated[Count | None, BeforeValidator(lambda v: None if v == "auto" else v)]
"""None where the recipe has "auto"."""


def as_tuple(value: Any) -> Any:
    """The short form of a list of one."""
    return (value,) if isinstance(value, str | int) else value


Names: TypeAlias = Annotated[tuple[str, ...], Field(min_length=1), BeforeValidator(as_tuple)]


class Section(BaseModel):
    """What the sections have in common: frozen, and unknown keys are errors."""

    # hide_input_in_errors: a key pasted into the wrong place must not come back in a message.
    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)


def sections_in(annotation: Any) -> list[type[BaseModel]]:
    """The models that an annotation names: a section, or every member of a union of them."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [section for part in get_args(annotation) for section in sections_in(part)]


def field_at(root: type[BaseModel], path: Sequence[str]) -> FieldInfo | None:
    """The field at a path of keys, or the one that holds it as part of its value; None where there is none."""
    sections = [root]
    for key in path:
        fields = [section.model_fields[key] for section in sections if key in section.model_fields]
        if not fields:
            return None
        sections = [inner for field in fields for inner in sections_in(field.annotation)]
        if not sections:
            return fields[0]
    return None
