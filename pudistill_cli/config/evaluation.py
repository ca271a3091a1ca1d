"""The recipe's `eval`: what is measured on dev and test."""

from __future__ import annotations

import re
from typing import Annotated, TypeAlias

from pydantic import Field, field_validator

from pudistill_cli.config.fields import Count, Few, Flag, Heat, Section
from pudistill_cli.config.stages import Effect, Stage

METRICS = ("none", "exact", "chrf", "json")
ENTRY_POINT = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")
Temperatures: TypeAlias = Annotated[tuple[Heat, ...], Field(min_length=1, max_length=100)]


class EvalSettings(Section):
    """What is measured on dev and test."""

    metric: Annotated[str, Stage.EVAL, Effect.SAME_ANSWERS] = "none"
    """none, exact, chrf, json, or `package.module:function`."""
    temperatures: Annotated[Temperatures, Stage.EVAL, Effect.SAME_ANSWERS] = (1.0, 0.0)
    """Reported in the final table; 0 is greedy."""
    dev_temperatures: Annotated[Temperatures, Stage.EVAL, Effect.SAME_ANSWERS] = (1.0, 0.7, 0.5, 0.0)
    """Tried on dev for the best one of each row."""
    samples: Annotated[Few, Stage.EVAL] = 3
    """Answers a prompt at each temperature above 0."""
    max_prompts: Annotated[Count | None, Stage.EVAL, Effect.SAME_ANSWERS] = None
    """At most this many prompts of each test set."""
    dev_prompts: Annotated[Count | None, Stage.EVAL, Effect.SAME_ANSWERS] = None
    claims: Annotated[Flag, Stage.EVAL, Effect.SAME_ANSWERS] = True
    """Draw and rank `prefer.k` candidates of up to 200 dev prompts once more, to measure what the paper claims."""

    @field_validator("metric")
    @classmethod
    def _known_metric(cls, value: str) -> str:
        if value not in METRICS and not ENTRY_POINT.fullmatch(value):
            raise ValueError(f"must be one of {', '.join(METRICS)}, or package.module:function")
        return value
