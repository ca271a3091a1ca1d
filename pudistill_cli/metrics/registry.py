"""Every metric by name, and what a recipe's `eval.metric` and the command line make of them."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any, cast

from pudistill_cli.allowed_code import NO_CODE, AllowedCode, refused_code
from pudistill_cli.metrics.json_values import Json
from pudistill_cli.metrics.metric import Metric
from pudistill_cli.metrics.numbers import Number
from pudistill_cli.metrics.patterns import Contains, Regex
from pudistill_cli.metrics.python_code import MetricFile, of_module
from pudistill_cli.metrics.texts import Chrf, Exact

NONE = "none"
METRICS: dict[str, type[Metric]] = {m.name: m for m in (Exact, Chrf, Json, Number, Regex, Contains)}
PYTHON = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")
"""package.module:function."""
_DATA = f"Or use a metric that is data, with --set eval.metric=NAME: {', '.join(METRICS)} (docs/recipe.md)."


@dataclass(frozen=True)
class Measure:
    """What answers are graded by. Code that was not allowed is not run; it is an error once a grade is asked for."""

    name: str
    """As the table's column is called; "none" without a metric."""
    load: Callable[[], Metric | None]
    identity: str
    """What tells it from any other one: a metric's name and settings, or a file's name and content."""
    file: MetricFile | None = None
    """What `--metric` names."""
    options: tuple[str, ...] = ()
    """What the command line has to say for it to be used again."""

    @cached_property
    def metric(self) -> Metric | None:
        """None where nothing grades.

        Raises:
            UsageError: it is Python that the command line does not allow, or that cannot be used.
        """
        return self.load()


def measure_of(setting: str | Metric, allowed: AllowedCode = NO_CODE) -> Measure:
    """The measure that the recipe's `eval.metric` means, or the command line's in its place. No code is run here.

    Raises:
        UsageError: the file that the command line names cannot be read.
    """
    if allowed.metric is not None:
        file = MetricFile.read(allowed.metric)
        return Measure(file.name, file.load, file.identity, file, tuple(AllowedCode(metric=allowed.metric).options))
    if isinstance(setting, Metric):
        settings = json.dumps(asdict(cast("Any", setting)), sort_keys=True, ensure_ascii=False)
        return Measure(setting.name, lambda: setting, f"{setting.name} {settings}")
    if setting == NONE:
        return Measure(NONE, lambda: None, NONE)
    if setting in METRICS:
        return Measure(setting, METRICS[setting], setting)

    def load() -> Metric:
        if not allowed.of_recipe:
            raise refused_code("eval.metric", f"the Python function {setting}", _DATA)
        return of_module(setting)

    return Measure(setting, load, setting, options=tuple(AllowedCode(of_recipe=True).options))
