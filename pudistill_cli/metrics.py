"""What an answer is worth against its reference, from 0 to 1, and how varied answers are."""

from __future__ import annotations

import json
from collections.abc import Callable, Hashable, Sequence
from importlib import import_module
from typing import Any, TypeAlias

from pudistill_cli.errors import UsageError

Metric: TypeAlias = Callable[[str, str, str], float]
"""(answer, reference, prompt) -> a number, higher is better."""


def exact(answer: str, reference: str, prompt: str = "") -> float:
    """1 where the texts are equal but for white space around them."""
    return float(answer.strip() == reference.strip())


def json_equal(answer: str, reference: str, prompt: str = "") -> float:
    """1 where both are JSON and equal as values: the order of keys and white space do not count."""
    try:
        return float(_typed(json.loads(answer)) == _typed(json.loads(reference)))
    except (ValueError, RecursionError):
        return 0.0


def chrf(answer: str, reference: str, prompt: str = "") -> float:
    """chrF2 (Popović 2015) from 0 to 1, as sacreBLEU computes it."""
    from sacrebleu import sentence_chrf

    return sentence_chrf(answer, [reference]).score / 100


BUILT_IN: dict[str, Metric] = {"exact": exact, "json": json_equal, "chrf": chrf}


def load_metric(name: str) -> Metric | None:
    """The metric of `eval.metric`; None for "none".

    Raises:
        UsageError: a `package.module:function` that cannot be imported or called.
    """
    if name == "none":
        return None
    if name in BUILT_IN:
        return BUILT_IN[name]
    module, _, attribute = name.partition(":")
    try:
        function: Any = getattr(import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise UsageError(
            f"eval.metric: {name} cannot be loaded: {error}.",
            "It is package.module:function, importable from here; the function takes (answer, reference, prompt).",
        ) from error
    if not callable(function):
        raise UsageError(f"eval.metric: {name} is not a function.", "It takes (answer, reference, prompt).")
    return function


def distinct_n(answers: Sequence[Sequence[Hashable]], n: int = 2) -> float:
    """Different n-grams over all n-grams of the answers (Li et al. 2016); 0 where there is none."""
    grams = [tuple(a[i : i + n]) for a in answers for i in range(len(a) - n + 1)]
    return len(set(grams)) / len(grams) if grams else 0.0


def _typed(value: Any) -> Any:
    """Tell 1 from true and 1.0 from 1 as JSON's text does."""
    if isinstance(value, dict):
        return {k: _typed(v) for k, v in value.items()}  # pyright: ignore[reportUnknownVariableType]
    if isinstance(value, list):
        return [_typed(v) for v in value]  # pyright: ignore[reportUnknownVariableType]
    return (type(value).__name__, value)
