"""The final table on the screen: quality at each temperature, then what else changed; 80 columns are enough."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.table import Table

from pudistill_cli.console import Console
from pudistill_cli.evaluate import Figures, temperature_name
from pudistill_cli.method.statistics import Interval

if TYPE_CHECKING:
    from pudistill_cli.stages.evaluation import Results

BESIDE = ("chrF to anchor", "wins over SFT (judge)", "distinct-2", "tokens", "truncated", "anchor NLL")
SHORT = {"wins over SFT (judge)": "wins (judge)"}
"""Names on the screen, so that four columns fit in 80."""


def print_results(console: Console, results: Results) -> None:
    """Two tables a set, and the verdict in one sentence."""
    for name in dict.fromkeys(f.set for f in results.figures):
        rows = [f for f in results.figures if f.set == name]
        console.table(_quality(rows, results, name))
        console.table(_beside(rows, results.measure))
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
    )


def _quality(rows: list[Figures], results: Results, name: str) -> Table:
    systems = list(dict.fromkeys(f.system for f in rows))
    by_system = {s: [f for f in rows if f.system == s] for s in systems}
    fixed = [temperature_name(f.temperature) for f in by_system[systems[0]]]
    columns = [*fixed, "own T"] if results.own_temperature else fixed
    table = Table(
        title=f"{name}: {rows[0].prompts} prompts, {results.measure}", title_justify="left", box=None, pad_edge=False
    )
    table.add_column("", no_wrap=True)
    for column in columns:
        table.add_column(column, justify="right", no_wrap=True)
    for system in systems:
        cells = [_cell(f.measures.get(results.measure)) for f in by_system[system]]
        table.add_row(system, *cells, *[""] * (len(columns) - len(cells)))
    for system in systems:
        gains = [f.gain.get(results.measure) for f in by_system[system]]
        if system != "base" and any(gain is not None for gain in gains):
            table.add_row(f"{system} - SFT", *(_cell(gain, signed=True) for gain in gains), style="bold")
    return table


def _beside(rows: list[Figures], measure: str) -> Table:
    first = [f for f in rows if f.temperature == rows[0].temperature]
    rows = list({f.system: f for f in reversed(first)}.values())[::-1]
    measures = [m for m in BESIDE if m != measure and any(m in f.measures for f in rows)]
    table = Table(box=None, pad_edge=False, header_style="dim")
    table.add_column(f"also, {temperature_name(rows[0].temperature)}", no_wrap=True)
    for system in rows:
        table.add_column(system.system, justify="right", no_wrap=True)
    for m in measures:
        table.add_row(SHORT.get(m, m), *(_cell(f.measures.get(m)) for f in rows))
    return table


def _cell(interval: Interval | None, *, signed: bool = False) -> str:
    """0.688 [.661, .715]: the bounds without their leading zero, so that four columns fit in 80."""
    if interval is None:
        return ""
    digits = next((d for least, d in ((100, 0), (10, 1), (2, 2)) if abs(interval.mean) >= least), 3)
    mean, low, high = (f"{v:{'+' if signed else ''}.{digits}f}" for v in (interval.mean, interval.low, interval.high))
    return f"{mean} [{_bare(low)}, {_bare(high)}]"


def _bare(number: str) -> str:
    return number.replace("0.", ".", 1) if number.lstrip("+-").startswith("0.") else number
