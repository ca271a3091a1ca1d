"""From what a run holds to the page: everything that is put into it is escaped."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from pudistill_cli.files.atomic_files import write_atomic
from pudistill_cli.report.charts import curve, intervals
from pudistill_cli.report.content import Content, read_run
from pudistill_cli.report.headline import added, headline
from pudistill_cli.report.tables import claim_value, grids_by_set
from pudistill_cli.terminal.visible_text import visible


def write_report(folder: Path) -> Path:
    """Write `report.html` of a run that has been evaluated; the same run gives the same bytes."""
    path = folder / "report.html"
    write_atomic(path, page(read_run(folder)))
    return path


def page(content: Content) -> str:
    """The HTML of one run."""
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, finalize=_shown
    )
    source = files("pudistill_cli.report").joinpath("page.html").read_text(encoding="utf-8")
    tables = [grid for pair in grids_by_set(content.results) for grid in pair]
    lines = [line.replace(" %", "\u00a0%") for line in (headline(content.results), *added(content.results))]
    words = {"headline": lines[0], "added": lines[1:]}
    drawn = {"claim_value": claim_value, "intervals": intervals, "curve": curve, "tables": tables}
    return environment.from_string(source).render(run=content, **words, **drawn)


def _shown(value: object) -> object:
    """What an expression of the page gives: escaped where it is no markup, and visible either way."""
    if isinstance(value, Markup):
        return Markup(visible(str(value)))
    return visible(value) if isinstance(value, str) else value
