"""Measures of an answer: against a reference (exact, chrf, json, or a Python function), and of diversity."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Hashable, Sequence
from decimal import Decimal
from importlib import import_module
from inspect import signature
from typing import Any, TypeAlias, cast

from pudistill_cli.errors import UsageError

Metric: TypeAlias = Callable[[str, str, str], float]
"""(answer, reference, the prompt's last message) -> a number, higher is better."""


def load_metric(name: str) -> Metric | None:
    """The recipe's `eval.metric`: exact, chrf, json, `package.module:function`, or None for "none".

    Raises:
        UsageError: the function cannot be imported or does not take (answer, reference, prompt).
    """
    if name == "none":
        return None
    return BUILT_IN[name] if name in BUILT_IN else _entry_point(name)


def exact(answer: str, reference: str, prompt: str = "") -> float:
    """1 where both are equal, but for whitespace around them."""
    return float(answer.strip() == reference.strip())


def chrf(answer: str, reference: str, prompt: str = "") -> float:
    """Character n-gram F-score in [0, 1] (Popović 2015; chrF2 as in sacreBLEU)."""
    from sacrebleu import sentence_chrf

    return sentence_chrf(answer, [reference]).score / 100


def json_equal(answer: str, reference: str, prompt: str = "") -> float:
    """1 where both are the same JSON value: keys in any order, numbers by value. 0 where either is no JSON."""
    try:
        return float(_same(_parsed(answer), _parsed(reference)))
    except (ValueError, RecursionError, ArithmeticError):  # the last: an exponent beyond Decimal's
        return 0.0


BUILT_IN: dict[str, Metric] = {"exact": exact, "chrf": chrf, "json": json_equal}


def distinct_n(sequences: Sequence[Sequence[Hashable]], n: int = 2) -> float:
    """Different n-grams over all n-grams of the sequences together (Li et al. 2016); 0 where there are none."""
    ngrams = [tuple(s[i : i + n]) for s in sequences for i in range(len(s) - n + 1)]
    return len(set(ngrams)) / len(ngrams) if ngrams else 0.0


# --- JSON ---


def _parsed(text: str) -> Any:
    return json.loads(text, parse_int=Decimal, parse_float=Decimal, parse_constant=_no_number)


def _no_number(name: str) -> Any:
    raise ValueError(f"{name} is no JSON")


def _same(a: Any, b: Any) -> bool:
    """Equality of JSON values; Python's own would have true equal to 1."""
    if isinstance(a, dict) and isinstance(b, dict):
        left, right = cast("dict[str, Any]", a), cast("dict[str, Any]", b)
        return left.keys() == right.keys() and all(_same(left[k], right[k]) for k in left)
    if isinstance(a, list) and isinstance(b, list):
        first, second = cast("list[Any]", a), cast("list[Any]", b)
        return len(first) == len(second) and all(map(_same, first, second))
    return isinstance(a, bool) == isinstance(b, bool) and a == b


# --- a function of the user's ---


def _entry_point(name: str) -> Metric:
    module_name, _, function_name = name.partition(":")
    try:
        module = import_module(module_name)
    except ModuleNotFoundError as error:
        # Not there itself, or missing something that it imports: both are the user's to install.
        raise UsageError(
            f"eval.metric: {name}: no module named {error.name!r}.",
            "Install it in this environment, or start with PYTHONPATH=. pudistill ... where it lies in this folder.",
        ) from error
    except Exception as error:
        raise UsageError(
            f"eval.metric: importing {module_name} failed: {type(error).__name__}: {error}.",
            f'Try it alone: python -c "import {module_name}"',
        ) from error
    function = getattr(module, function_name, None)
    if not callable(function):
        raise UsageError(f"eval.metric: {module_name} has no function {function_name!r}.", _SHAPE)
    try:
        signature(function).bind("", "", "")
    except TypeError as error:
        raise UsageError(f"eval.metric: {name} cannot be called with three texts: {error}.", _SHAPE) from error

    def checked(answer: str, reference: str, prompt: str) -> float:
        try:
            value = function(answer, reference, prompt)
        except Exception as error:
            raise UsageError(
                f"eval.metric: {name} failed on an answer: {type(error).__name__}: {error}.",
                "It must take any text, also an empty one. Mend it and type the same command again: all work is kept.",
            ) from error
        if not isinstance(value, int | float) or not math.isfinite(value):
            raise UsageError(f"eval.metric: {name} returned {value!r}, not a finite number.", _SHAPE)
        return float(value)

    return checked


_SHAPE = "It takes (answer: str, reference: str, prompt: str) and returns a float; higher is better."
