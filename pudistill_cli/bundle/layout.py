"""Where things lie in a job's bundle, and what no bundle carries."""

from __future__ import annotations

RECIPE = "recipe.yaml"
ANCHORS = "anchors.jsonl"
WHEELS = "wheels"


def is_python(metric: object) -> bool:
    """Whether a recipe's metric is a Python function, package.module:function."""
    return isinstance(metric, str) and ":" in metric
