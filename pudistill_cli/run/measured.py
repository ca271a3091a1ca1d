"""By what a run that is there was graded, and what its command line has to allow."""

from __future__ import annotations

import json
from contextlib import closing
from pathlib import Path
from shlex import quote
from typing import cast

from pudistill_cli.allowed_code import AllowedCode
from pudistill_cli.config.schema import Recipe
from pudistill_cli.errors import UsageError
from pudistill_cli.metrics.registry import measure_of
from pudistill_cli.run.identity import METRIC_FILE
from pudistill_cli.run.ledger import Ledger
from pudistill_cli.run.marks import Mark

GRADED_BY = "measure"
"""The key of the evaluation's detail in the ledger that tells the measure, its settings or content included."""


def metric_file_of(path: Path) -> str | None:
    """The metric file that a run was last gone on with, by name and content; None where it had none."""
    try:
        held = json.loads((path / "state" / "run.json").read_text(encoding="utf-8"))
        return cast("str | None", held["identity"].get(METRIC_FILE))
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return None


def refuse_missing_file(path: Path) -> None:
    """A run that was graded by a file of the person's is not graded by its recipe's metric unless they say so.

    Raises:
        UsageError: it was.
    """
    if (file := metric_file_of(path)) is not None:
        raise UsageError(
            f"The run {path.name!r} was graded by a Python file that is no part of it: {file}.",
            f"Name the file: --metric {quote(file.split()[0])}, with its path. "
            "Or another metric: --set eval.metric=json",
        )


def needed_code(path: Path, recipe: Recipe) -> AllowedCode:
    """What the command line has to allow for a run to go on."""
    file = metric_file_of(path)
    by_recipe = file is None and bool(measure_of(recipe.eval.metric).options)
    return AllowedCode(by_recipe or recipe.export.llama_cpp is not None, file.split()[0] if file else None)


def has_table_by_code(path: Path, recipe: Recipe) -> bool:
    """Whether a finished run holds the table that its own measure gives, which is code: it can be shown without it."""
    file, measure = metric_file_of(path), measure_of(recipe.eval.metric)
    if not (file or measure.options) or not (path / "results.json").is_file():
        return False
    with closing(Ledger(path / "ledger.sqlite")) as ledger:
        if not ledger.stage_done(Mark.EVAL()):
            return False
        return ledger.stage_detail(Mark.EVAL()).get(GRADED_BY) == (file or measure.identity)
