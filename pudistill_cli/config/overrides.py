"""`--set a.b=c`: a value of a recipe given on the command line."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

from pudistill_cli.config.validation_errors import Problem
from pudistill_cli.config.yaml_lines import DEEPEST, Dotted, YamlProblem, read_yaml, text_problem

_LONG_FORM: dict[Dotted, Dotted] = {
    ("backend",): ("engine", "learner"),
    ("train", "objective"): ("name",),
    ("eval", "metric"): ("name",),
}
"""Sections that may be written as one word, and the keys that the word stands for."""
_LONGEST = 500
_SHOWN = 60


def apply_overrides(data: dict[str, Any], overrides: Sequence[str]) -> tuple[list[Dotted], list[Problem]]:
    """Set each "a.b=c" in `data`, the value read as YAML; sections that are not there are made.

    Returns the places that were set, and what is wrong with the others.
    """
    done: list[Dotted] = []
    problems: list[Problem] = []
    for override in overrides:
        dotted, equals, text = override.partition("=")
        path = tuple(dotted.strip().split("."))
        if not equals or not all(path) or len(path) > DEEPEST or len(dotted) > _LONGEST or text_problem(dotted):
            path = (ascii(dotted[:_SHOWN])[1:-1],)
            problems.append(Problem(path, "must be key=value, as in --set prefer.k=8"))
        else:
            try:
                _set(data, path, read_yaml(text).value)
            except (YamlProblem, ValueError) as error:
                problems.append(Problem(path, str(error)))
        done.append(path)
    return done, problems


def _set(data: dict[str, Any], path: Dotted, value: Any) -> None:
    section = data
    for depth, key in enumerate(path[:-1], start=1):
        inner = section.setdefault(key, {})
        if isinstance(inner, str) and path[:depth] in _LONG_FORM:
            inner = section[key] = dict.fromkeys(_LONG_FORM[path[:depth]], inner)
        if inner is None:
            inner = section[key] = {}
        if not isinstance(inner, dict):
            raise ValueError(f"{'.'.join(path[:depth])} is a value, not a section")
        section = cast("dict[str, Any]", inner)
    section[path[-1]] = value
