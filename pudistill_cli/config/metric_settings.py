"""`eval.metric` of a recipe: a name, or a mapping of a name and settings, made into the metric itself.

The metrics' own dataclasses (metrics/) define settings and defaults; nothing is repeated here. A Python function stays
the name that it is: what it takes to run it is not a recipe's to say.
"""

from __future__ import annotations

from dataclasses import MISSING, asdict, fields
from typing import Any, TypeAlias, cast

from pydantic import TypeAdapter
from pydantic_core import ErrorDetails, InitErrorDetails, PydanticCustomError, ValidationError

from pudistill_cli.did_you_mean import did_you_mean
from pudistill_cli.metrics.metric import Metric
from pudistill_cli.metrics.registry import METRICS, NONE, PYTHON

MetricSetting: TypeAlias = str | Metric
"""The name of a metric that is used as it is, or of a Python function; or a metric with settings of its own."""


def metric_from(value: Any) -> MetricSetting:
    """Build a metric from "json" or from {"name": "json", "fields": {...}}; one that is built stays.

    Raises:
        ValueError: no such metric.
        ValidationError: unknown settings, or values that are not what they must be: all of them, by name.
    """
    if isinstance(value, Metric):
        return value
    settings = dict(cast("dict[str, Any]", value)) if isinstance(value, dict) else {"name": value}
    name = settings.pop("name", None)
    if isinstance(value, str) and (name == NONE or PYTHON.fullmatch(value)):
        return value
    if not isinstance(name, str) or name not in METRICS:
        known = ", ".join((NONE, *METRICS))
        raise ValueError(
            f"no such metric{did_you_mean(name, METRICS)}: there are {known}, each by its name or as "
            "{name: ..., SETTING: ...}; a Python function is package.module:function"
        )
    try:
        metric = TypeAdapter(METRICS[name]).validate_python(settings)
    except ValidationError as error:
        raise ValidationError.from_exception_data(name, _problems(error, name), hide_input=True) from None
    return name if not _given(metric) else metric


def setting_of(setting: MetricSetting) -> Any:
    """As a recipe has it: `metric_from` the other way round."""
    return setting if isinstance(setting, str) else {"name": setting.name, **_given(setting)}


def _given(metric: Metric) -> dict[str, Any]:
    """The settings that are not left at their defaults."""
    values = asdict(cast("Any", metric))
    defaults = {f.name: f.default for f in fields(cast("Any", metric)) if f.default is not MISSING}
    return {key: value for key, value in values.items() if key not in defaults or value != defaults[key]}


def _problems(error: ValidationError, name: str) -> list[InitErrorDetails]:
    known = [f.name for f in fields(cast("Any", METRICS[name]))]
    return [
        InitErrorDetails(
            type=PydanticCustomError("metric", "{problem}", {"problem": _problem(details, name, known)}),
            loc=tuple(part for part in details["loc"] if part != "[key]"),
            input=None,
        )
        for details in error.errors(include_url=False, include_input=False)
    ]


def _problem(details: ErrorDetails, name: str, known: list[str]) -> str:
    kind, context = details["type"], details.get("ctx", {})
    if kind == "unexpected_keyword_argument":
        return f"unknown key{did_you_mean(details['loc'][-1], known)}"
    if kind.startswith("missing"):
        return f"is required by the metric {name}"
    if kind == "value_error":
        return str(context["error"])
    if kind in ("too_short", "string_too_short"):
        return "must not be empty"
    said = details["msg"].replace("Input should be", "must be").replace("String should have", "must have")
    return said.replace("a valid list", "a list").replace("a valid dictionary", "a mapping, or a list without repeats")
