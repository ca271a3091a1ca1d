"""What the settings of metrics are made of."""

from __future__ import annotations

from typing import Annotated, TypeAlias

from pydantic import ConfigDict, Field

SETTINGS = ConfigDict(extra="forbid", hide_input_in_errors=True)
Weight: TypeAlias = Annotated[float, Field(gt=0, le=1e9, allow_inf_nan=False, strict=True)]
Tolerance: TypeAlias = Annotated[float, Field(ge=0, le=1e15, allow_inf_nan=False, strict=True)]
Switch: TypeAlias = Annotated[bool, Field(strict=True)]
Word: TypeAlias = Annotated[str, Field(min_length=1)]
