"""`train.objective` of a recipe: a name, or a mapping of a name and settings, made into the objective itself.

The objectives' own dataclasses (method/objectives/) define settings and defaults; nothing is repeated here.
"""

from __future__ import annotations

from dataclasses import fields
from typing import Any, cast

from pydantic_core import InitErrorDetails, PydanticCustomError, ValidationError

from pudistill_cli.did_you_mean import did_you_mean
from pudistill_cli.method.objectives import Objective
from pudistill_cli.method.objectives.registry import OBJECTIVES

DEFAULT = "ldl-grpo"
LARGEST = 1_000_000


def objective_from(value: Any) -> Objective:
    """Build an objective from "ldl-grpo" or from {"name": "ldl-grpo", "beta": 0.1}; one that is built stays.

    Raises:
        ValueError: no such objective.
        ValidationError: unknown settings, or values that are no numbers from 0 up: all of them, by name.
    """
    if isinstance(value, tuple(OBJECTIVES.values())):
        return value
    settings = dict(cast("dict[str, Any]", value)) if isinstance(value, dict) else {"name": value}
    name = settings.pop("name", DEFAULT)
    if not isinstance(name, str) or name not in OBJECTIVES:
        known = ", ".join(sorted(OBJECTIVES))
        raise ValueError(f"no such objective{did_you_mean(name, OBJECTIVES)}: there are {known}")
    objective = OBJECTIVES[name]
    known_settings = [field.name for field in fields(cast("Any", objective))]
    problems = [
        InitErrorDetails(
            type=PydanticCustomError("objective", "{problem}", {"problem": problem}), loc=(key,), input=None
        )
        for key, setting in settings.items()
        if (problem := _problem(key, setting, known_settings))
    ]
    if problems:
        raise ValidationError.from_exception_data(name, problems, hide_input=True)
    return objective(**settings)


def _problem(key: str, setting: Any, known: list[str]) -> str:
    if key not in known:
        return f"unknown key{did_you_mean(key, known)}"
    if isinstance(setting, bool) or not isinstance(setting, int | float):
        return "must be a number"
    if key == "beta" and setting == 0:
        return "must be above 0"
    return "" if 0 <= setting <= LARGEST else f"must be a number from 0 up to {LARGEST:,}"
