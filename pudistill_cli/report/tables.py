"""The final table on the screen: quality at each temperature, then what else changed; 80 columns are enough."""

from __future__ import annotations

from dataclasses import asdict, dataclass

from pudistill_cli.report.headline import added, headline
from pudistill_cli.report.numbers import interval_text, without_leading_zero
from pudistill_cli.stages.claims import Claim
from pudistill_cli.stages.evaluation import Results
from pudistill_cli.stages.evaluator import LIKENESS, Figures, temperature_name
from pudistill_cli.terminal.console import Console, PlainTable

SECONDARY_MEASURES = (LIKENESS, "wins over SFT (judge)", "distinct-2", "tokens", "truncated", "anchor NLL")
SHORT_NAMES = {"wins over SFT (judge)": "wins (judge)"}
"""Names on the screen, so that four columns fit in 80."""


@dataclass(frozen=True, slots=True)
class Row:
    """A row of a table: what it is of, and a cell a column."""

    name: str
    cells: list[str]
    bold: bool = False


@dataclass(frozen=True, slots=True)
class Grid:
    """A table before it is drawn; the first column's title is that of the names."""

    title: str
    columns: list[str]
    rows: list[Row]


def print_results(console: Console, results: Results) -> None:
    """What the run gained in words, then two tables a set and the claims."""
    console.prose(headline(results), bold=True)
    for line in (*added(results), results.verdict):
        console.prose(line)
    console.result("")
    for pair in grids_by_set(results):
        for grid in pair:
            console.table(_table(grid))
        console.result("")
    console.table(_claims(results))
    console.result("")
    console.result("Brackets: 95 % bootstrap intervals over prompts; gains are paired.")
    if results.own_temperature:
        own = ", ".join(f"{system} {temperature_name(t)}" for system, t in results.own_temperature.items())
        console.result(f"own T: the temperature where dev finds a system best ({own}).")
    console.event(
        "results",
        measure=results.measure,
        chosen=results.chosen,
        headline=headline(results),
        gained=[asdict(of_set) for of_set in results.gained],
        verdict=results.verdict,
        own=results.own_temperature,
        claims=[{"outcome": claim.outcome, **asdict(claim)} for claim in results.claims],
    )


def grids_by_set(results: Results) -> list[tuple[Grid, Grid]]:
    """For each test set the table of its measure, and that of what else changed."""
    by_set: dict[str, list[Figures]] = {}
    for figures in results.figures:
        by_set.setdefault(figures.set, []).append(figures)
    return [(_quality(rows, results), _secondary(rows, results.measure)) for rows in by_set.values()]


def _quality(figures: list[Figures], results: Results) -> Grid:
    """The measure of each system on one set at each temperature, and its gains over SFT."""
    systems = list(dict.fromkeys(f.system for f in figures))
    by_system = {s: [f for f in figures if f.system == s] for s in systems}
    fixed = [temperature_name(f.temperature) for f in by_system[systems[0]]]
    columns = [*fixed, "own T"] if results.own_temperature else fixed
    rows: list[Row] = []
    for system in systems:
        cells = [interval_text(f.measures.get(results.measure)) for f in by_system[system]]
        rows.append(Row(system, [*cells, *[""] * (len(columns) - len(cells))]))
    for system in systems:
        gains = [f.gain.get(results.measure) for f in by_system[system]]
        if system != "base" and any(gain is not None for gain in gains):
            rows.append(Row(f"{system} - SFT", [interval_text(gain, signed=True) for gain in gains], bold=True))
    first = figures[0]
    return Grid(f"{first.set}: {first.prompts} prompts, {results.measure}", ["", *columns], rows)


def _secondary(figures: list[Figures], measure: str) -> Grid:
    """What else changed, at the first temperature."""
    temperature = figures[0].temperature
    by_system: dict[str, Figures] = {}
    for f in figures:
        if f.temperature == temperature:
            by_system.setdefault(f.system, f)
    measured = by_system.values()
    measures = [m for m in SECONDARY_MEASURES if m != measure and any(m in f.measures for f in measured)]
    rows = [Row(SHORT_NAMES.get(m, m), [interval_text(f.measures.get(m)) for f in measured]) for m in measures]
    return Grid("", [f"also, {temperature_name(temperature)}", *by_system], rows)


def _table(grid: Grid) -> PlainTable:
    table = PlainTable(title=grid.title or None, title_justify="left", box=None, pad_edge=False)
    table.header_style = "table.header" if grid.title else "dim"
    for i, column in enumerate(grid.columns):
        table.add_column(column, justify="right" if i else "left", no_wrap=True)
    for row in grid.rows:
        table.add_row(row.name, *row.cells, style="bold" if row.bold else None)
    return table


def claim_value(claim: Claim) -> str:
    """What a claim's check came to; stability is a gain."""
    return interval_text(claim.check.value, signed=claim.name == "stability")


def _claims(results: Results) -> PlainTable:
    table = PlainTable(title="What the paper claims, on this run", title_justify="left", box=None, pad_edge=False)
    table.show_header = False
    for no_wrap in (True, True, False):
        table.add_column(no_wrap=no_wrap)
    for claim in results.claims:
        check = claim.check
        on = f" ({check.groups} prompts)" if check.value is not None else ""
        table.add_row(claim.name, claim.outcome, f"{claim_value(claim)} {claim.measured}{on}".lstrip())
        if check.value is None and claim.label_free:
            known = ", ".join(
                f"{name} {without_leading_zero(f'{value:.3f}')}" for name, value in claim.label_free.items()
            )
            table.add_row("", "", f"without it: {known}")
    return table
