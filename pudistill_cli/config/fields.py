"""What the recipe's sections are made of: their base class, the types of their fields, and what a change of one redoes.

Each field carries the first stage that it matters for, as `Annotated[..., Stage.SFT]`: run/identity.py reads it there.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal, TypeAlias, get_args

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field
from pydantic.fields import FieldInfo

Count: TypeAlias = Annotated[int, Field(ge=1, strict=True)]
Natural: TypeAlias = Annotated[int, Field(ge=0, strict=True)]
GroupSize: TypeAlias = Annotated[int, Field(ge=2, strict=True)]
Positive: TypeAlias = Annotated[float, Field(gt=0, allow_inf_nan=False, strict=True)]
NonNegative: TypeAlias = Annotated[float, Field(ge=0, allow_inf_nan=False, strict=True)]
Share: TypeAlias = Annotated[float, Field(ge=0, le=1, strict=True)]
PositiveShare: TypeAlias = Annotated[float, Field(gt=0, le=1, strict=True)]
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
