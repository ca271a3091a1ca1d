"""The tables of the evidence: means, and paired gains over every baseline; as JSON and as markdown."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.evidence.plots import plot
from benchmarks.evidence.rows import rows
from benchmarks.evidence.statistics import Spread, over_prompts_and_seeds
from benchmarks.evidence.store import RESULTS, Cell, frozen_at, reads

Kept = Mapping[int, Mapping[str, Any]]
"""Results by seed."""
COLUMNS = {"1.0": "T = 1", "0.7": "0.7", "0.5": "0.5", "0.0": "greedy", "own": "own T"}
METHOD = "pudistill"
BASE = "sft"
BESIDE = ("distinct-2", "anchor NLL", "tokens", "core seconds", "core seconds of the cell", "sampled tokens")
"""Core seconds are those of learning; a cell's also hold the evaluation of all its answers."""
UNTRUSTED = ("blind", "random", "oracle")
"""Rows whose ranking is not by the anchor."""
TITLES = {"test": "Test: prompts like the training prompts", "other": "Other: out of template"}


def report(results: Sequence[tuple[Cell, Mapping[str, Any]]]) -> None:
    """Print the tables, write them as JSON and markdown, and draw them."""
    if not results:
        print("Nothing is kept yet.")
        return
    tasks: dict[str, dict[str, dict[int, Mapping[str, Any]]]] = {}
    for cell, result in results:
        tasks.setdefault(cell.task, {}).setdefault(cell.row, {})[cell.seed] = result
    tables = {task: [_line(task, row, kept) for row in kept] for task, kept in tasks.items()}
    text = "\n".join(_markdown(task, table) + _rounds(tasks[task]) for task, table in tables.items()) + _readings()
    print(text)
    RESULTS.mkdir(parents=True, exist_ok=True)
    (RESULTS / "tables.json").write_text(json.dumps(tables, indent=1) + "\n", encoding="utf-8")
    (RESULTS / "README.md").write_text(TITLE + frozen_note() + text, encoding="utf-8")
    plot(tables, RESULTS)


TIE = 1e-9
"""A gain that rounding alone may make."""

TITLE = """\
# Evidence

Written by `python -m benchmarks.evidence`; do not edit. Means over prompts and seeds. A gain is paired by prompt and
seed; its 95 % interval draws prompts and seeds anew. "Seeds" counts those whose own gain is above zero.

"""


def frozen_note() -> str:
    """What the tables say of the code that their cells ran with, where it is not the present code."""
    frozen = frozen_at()
    if frozen is None:
        return ""
    return (
        f"Frozen: every cell ran with the code of commit {frozen['commit']} or with code of the same meaning. Later "
        "code is not asked again;\nto ask it, delete `frozen.json` and run the command.\n\n"
    )


def grades(result: Mapping[str, Any], name: str, column: str) -> NDArray[np.float64]:
    """(N,) grade of each prompt in [0, 1], its samples averaged; at each row's own temperature of those that all have.

    Greedy decoding may have been asked about more prompts than the other temperatures.
    """
    by_temperature = result["grades"][name]
    if column == "own":
        return np.array(by_temperature[str(result["own temperature"])][: min(map(len, by_temperature.values()))]) / 1000
    return np.array(by_temperature[column]) / 1000


def level(kept: Kept, name: str, column: str) -> Spread:
    """The mean grade of a row."""
    return over_prompts_and_seeds(np.stack([grades(r, name, column) for r in kept.values()], axis=1))


def gain(kept: Kept, base: Kept, name: str, column: str) -> tuple[Spread, int, int]:
    """The paired gain over another row, in how many seeds it is above zero, and of how many."""
    seeds = sorted(set(kept) & set(base))
    pairs = [grades(kept[s], name, column) - grades(base[s], name, column) for s in seeds]
    above = sum(bool(d.mean() > TIE) for d in pairs)
    return over_prompts_and_seeds(np.stack(pairs, axis=1)), above, len(seeds)


def _line(task: str, row: str, kept: Mapping[str, Kept]) -> dict[str, Any]:
    """Everything of one row: levels and gains over each other row, by set and column."""
    results = kept[row]
    sets = [name for name in next(iter(results.values()))["grades"] if name != "dev"]
    about = {r.name: r.about for r in rows(task)}
    line: dict[str, Any] = {"row": row, "about": about[row], "seeds": sorted(results)}
    for name in sets:
        line[name] = {c: _rounded(level(results, name, c)) for c in COLUMNS}
    line["gain"] = {
        other: {name: {c: _gain(results, kept[other], name, c) for c in COLUMNS} for name in sets}
        for other in kept
        if other != row and set(kept[other]) & set(results)
    }
    for beside in BESIDE:
        line[beside] = round(float(np.mean([r[beside] for r in results.values()])), 3)
    line["own temperature"] = [r["own temperature"] for _, r in sorted(results.items())]
    return line


def _gain(results: Kept, base: Kept, name: str, column: str) -> dict[str, Any]:
    spread, above, of = gain(results, base, name, column)
    return {"gain": _rounded(spread), "above": above, "of": of}


def _markdown(task: str, table_rows: Sequence[Mapping[str, Any]]) -> str:
    """A table of levels a set, the method's gains over every other row, and what goes beside a gain."""
    sets = [name for name in ("test", "other") if name in table_rows[0]]
    parts = [f"## {task}\n"]
    for name in sets:
        lines = [
            [row["row"], *(f"{row[name][c][0]:.3f}" for c in COLUMNS), *_shown(row["gain"].get(BASE), name)]
            for row in table_rows
        ]
        head = ["row", *COLUMNS.values(), f"greedy over {BASE}", "seeds"]
        parts += [f"{TITLES[name]}\n", *table(head, lines), ""]
    parts += _against(table_rows, sets)
    head = ["row", *BESIDE]
    beside = [[row["row"], *(f"{row[h]:g}" for h in head[1:])] for row in table_rows]
    return "\n".join([*parts, "Beside it, on test at T = 1\n", *table(head, beside), ""])


def _against(table_rows: Sequence[Mapping[str, Any]], sets: Sequence[str]) -> list[str]:
    method = next((row for row in table_rows if row["row"] == METHOD), None)
    if method is None:
        return []
    parts: list[str] = []
    for name in sets:
        lines = [
            [other, *(_shown(gains, name, c)[0] for c in COLUMNS), _shown(gains, name)[1]]
            for other, gains in method["gain"].items()
        ]
        title = f"What {METHOD} gains, {name}"
        parts += [f"{title}\n", *table([f"{METHOD} over", *COLUMNS.values(), "seeds, greedy"], lines), ""]
    return parts


def _shown(gains: Mapping[str, Any] | None, name: str, column: str = "0.0") -> tuple[str, str]:
    if gains is None:
        return "", ""
    over = gains[name][column]
    mean, low, high = over["gain"]
    clear = "**" if low > 0 or high < 0 else ""
    return f"{clear}{mean:+.3f} [{low:+.3f}, {high:+.3f}]{clear}", f"{over['above']}/{over['of']}"


def _rounds(kept: Mapping[str, Kept]) -> str:
    """How well the class prior was estimated and the candidates were ranked, where the student itself ranks."""
    by_row = {row: [r for result in results.values() for r in result["rounds"]] for row, results in kept.items()}
    own = {row: rounds for row, rounds in by_row.items() if rounds and row not in UNTRUSTED}
    lines = [[row, *_judged(rounds)] for row, rounds in own.items()]
    if not lines:
        return ""
    every = [r for rounds in own.values() for r in rounds]
    head = ["row", "rounds", "prior: mean error", "largest", "intervals that hold it", "order", "concentration"]
    title = "The rounds, candidates graded by the truth: class prior against the true share, and the ranking\n"
    return "\n".join(["", title, *table(head, [*lines, ["all", *_judged(every)]]), ""])


def _judged(rounds: Sequence[Mapping[str, Any]]) -> list[str]:
    priors = [r["prior"] for r in rounds if "prior" in r]
    errors = [abs(p["estimate"] - p["truth"]) for p in priors]
    held = sum(p["low"] <= p["truth"] <= p["high"] for p in priors)
    claims = [[r[name][0] for r in rounds if r[name]] for name in ("order", "concentration")]
    means = [f"{np.mean(values):.3f}" if values else "" for values in claims]
    prior = [f"{np.mean(errors):.3f}", f"{max(errors):.3f}", f"{held}/{len(priors)}"] if priors else ["", "", ""]
    return [str(len(rounds)), *prior, *means]


def _readings() -> str:
    counted = reads()
    most = max(counted.values(), default=0)
    return f"\nTest was read {sum(counted.values())} times, at most {most} times by one cell.\n"


def table(head: Sequence[str], lines: Iterable[Sequence[str]]) -> list[str]:
    """A markdown table."""
    return [f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *lines)]


def _rounded(spread: Spread) -> list[float]:
    return [round(x, 4) for x in spread]
