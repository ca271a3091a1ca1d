"""The final table on the screen: quality at each temperature, then what else changed; 80 columns are enough."""

from __future__ import annotations

from dataclasses import asdict, dataclass

from rich.table import Table

from pudistill_cli.console import Console
from pudistill_cli.method.statistics import Interval
from pudistill_cli.stages.claims import Claim
from pudistill_cli.stages.evaluation import Results
from pudistill_cli.stages.evaluator import Figures, temperature_name

BESIDE = ("chrF to anchor", "wins over SFT (judge)", "distinct-2", "tokens", "truncated", "anchor NLL")
SHORT = {"wins over SFT (judge)": "wins (judge)"}
"""Names on the screen, so that four columns fit in 80."""


@dataclass(frozen=True, slots=True)
class Line:
    """A row of a table: what it is of, and a cell a column."""

    name: str
    cells: list[str]
    strong: bool = False


@dataclass(frozen=True, slots=True)
class Grid:
    """A table before it is drawn; the first column's title is that of the names."""

    title: str
    columns: list[str]
    lines: list[Line]


def print_results(console: Console, results: Results) -> None:
    """Two tables a set, and the verdict in one sentence."""
    for name in dict.fromkeys(f.set for f in results.figures):
        rows = [f for f in results.figures if f.set == name]
        console.table(_table(quality(rows, results, name)))
        console.table(_table(beside(rows, results.measure)))
        console.result("")
    console.table(_claims(results))
    console.result("")
    console.result(results.verdict)
    console.result("Brackets: 95 % bootstrap intervals over prompts; gains are paired.")
    if results.own_temperature:
        own = ", ".join(f"{system} {temperature_name(t)}" for system, t in results.own_temperature.items())
        console.result(f"own T: the temperature where dev finds a system best ({own}).")
    console.event(
        "results",
        measure=results.measure,
        chosen=results.chosen,
        verdict=results.verdict,
        own=results.own_temperature,
        claims=[{"outcome": claim.outcome, **asdict(claim)} for claim in results.claims],
    )


def quality(rows: list[Figures], results: Results, name: str) -> Grid:
    """The measure of each system on one set at each temperature, and its gains over SFT."""
    systems = list(dict.fromkeys(f.system for f in rows))
    by_system = {s: [f for f in rows if f.system == s] for s in systems}
    fixed = [temperature_name(f.temperature) for f in by_system[systems[0]]]
    columns = [*fixed, "own T"] if results.own_temperature else fixed
    lines: list[Line] = []
    for system in systems:
        cells = [cell(f.measures.get(results.measure)) for f in by_system[system]]
        lines.append(Line(system, [*cells, *[""] * (len(columns) - len(cells))]))
    for system in systems:
        gains = [f.gain.get(results.measure) for f in by_system[system]]
        if system != "base" and any(gain is not None for gain in gains):
            lines.append(Line(f"{system} - SFT", [cell(gain, signed=True) for gain in gains], strong=True))
    return Grid(f"{name}: {rows[0].prompts} prompts, {results.measure}", ["", *columns], lines)


def beside(rows: list[Figures], measure: str) -> Grid:
    """What else changed, at the first temperature."""
    first = [f for f in rows if f.temperature == rows[0].temperature]
    rows = list({f.system: f for f in reversed(first)}.values())[::-1]
    measures = [m for m in BESIDE if m != measure and any(m in f.measures for f in rows)]
    lines = [Line(SHORT.get(m, m), [cell(f.measures.get(m)) for f in rows]) for m in measures]
    return Grid("", [f"also, {temperature_name(rows[0].temperature)}", *(f.system for f in rows)], lines)


def _table(grid: Grid) -> Table:
    table = Table(title=grid.title or None, title_justify="left", box=None, pad_edge=False)
    table.header_style = "table.header" if grid.title else "dim"
    for i, column in enumerate(grid.columns):
        table.add_column(column, justify="right" if i else "left", no_wrap=True)
    for line in grid.lines:
        table.add_row(line.name, *line.cells, style="bold" if line.strong else None)
    return table


def claim_value(claim: Claim) -> str:
    """What a claim's check came to; stability is a gain."""
    return cell(claim.check.value, signed=claim.name == "stability")


def _claims(results: Results) -> Table:
    table = Table(title="What the paper claims, on this run", title_justify="left", box=None, pad_edge=False)
    table.show_header = False
    for no_wrap in (True, True, False):
        table.add_column(no_wrap=no_wrap)
    for claim in results.claims:
        found = claim.check
        on = f" ({found.groups} prompts)" if found.value is not None else ""
        table.add_row(claim.name, claim.outcome, f"{claim_value(claim)} {claim.measured}{on}".lstrip())
        if found.value is None and claim.label_free:
            known = ", ".join(f"{name} {_bare(f'{value:.3f}')}" for name, value in claim.label_free.items())
            table.add_row("", "", f"without it: {known}")
    return table


def cell(interval: Interval | None, *, signed: bool = False) -> str:
    """0.688 [.661, .715]: the bounds without their leading zero, so that four columns fit in 80."""
    if interval is None:
        return ""
    digits = next((d for least, d in ((100, 0), (10, 1), (2, 2)) if abs(interval.mean) >= least), 3)
    mean, low, high = (f"{v:{'+' if signed else ''}.{digits}f}" for v in (interval.mean, interval.low, interval.high))
    return f"{mean} [{_bare(low)}, {_bare(high)}]"


def _bare(number: str) -> str:
    return number.replace("0.", ".", 1) if number.lstrip("+-").startswith("0.") else number
