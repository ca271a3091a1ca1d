"""Tables of the quickstart benchmark: per row the mean over seeds, and the gain over SFT-for-longer seed by seed."""

from __future__ import annotations

import json
import os
import platform
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pudistill_cli.method.statistics import Interval, bootstrap_mean, paired_difference

Result = tuple[str, str, int, Mapping[str, Any]]
"""(row, shape, seed, what benchmarks.quickstart_cell wrote)."""
COLUMNS = ("1.0", "0.7", "0.5", "0.0", "own")
BASELINE = ("sft-longer", "all")


def values(result: Mapping[str, Any], name: str, column: str) -> np.ndarray:
    """(N,) mean over samples of the exact measure, per prompt."""
    temperature = str(result["own"]) if column == "own" else column
    return np.array(result["sets"][name][temperature])


def pooled(results: Sequence[Mapping[str, Any]], name: str, column: str) -> Interval:
    """Mean over prompts and seeds; the interval resamples prompts, the seeds' values averaged."""
    return bootstrap_mean(np.stack([values(r, name, column) for r in results], axis=1), seed=0)


def report(results: Sequence[Result], out: Path) -> None:
    """Print the tables; write them, with commit and machine, to `out`."""
    if not results:
        print("Nothing is cached yet.")
        return
    by_row: dict[tuple[str, str], dict[int, Mapping[str, Any]]] = {}
    for row, shape, seed, result in results:
        by_row.setdefault((row, shape), {})[seed] = result
    table: list[dict[str, Any]] = []
    for (row, shape), seeds in by_row.items():
        line: dict[str, Any] = {"row": row, "shape": shape, "seeds": sorted(seeds)}
        found = list(seeds.values())
        for name in found[0]["sets"]:
            line[name] = {c: _as_list(pooled(found, name, c)) for c in COLUMNS}
        line["own temperature"] = [r["own"] for r in found]
        for beside in ("distinct-2", "anchor NLL", "tokens", "core seconds"):
            line[beside] = round(float(np.mean([r[beside] for r in found])), 3)
        line["gain"] = _gains(by_row, (row, shape))
        table.append(line)
    for name in table[0]["gain"] or ("test", "other-wordings"):
        _print(table, name)
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps({"machine": _machine(), "rows": table}, indent=1) + "\n")
    print(f"\nwritten: {out.relative_to(Path.cwd()) if out.is_relative_to(Path.cwd()) else out}")


def _gains(by_row: Mapping[tuple[str, str], Mapping[int, Mapping[str, Any]]], key: tuple[str, str]) -> dict[str, Any]:
    """Per set and column, the paired gain over SFT-for-longer: a list of [mean, low, high] by seed."""
    baseline = by_row.get(BASELINE, {})
    if key == BASELINE or not baseline:
        return {}
    shared = sorted(set(by_row[key]) & set(baseline))
    return {
        name: {
            c: [
                _as_list(paired_difference(values(by_row[key][s], name, c), values(baseline[s], name, c), seed=s))
                for s in shared
            ]
            for c in COLUMNS
        }
        for name in next(iter(baseline.values()))["sets"]
    }


def _print(table: Sequence[dict[str, Any]], name: str) -> None:
    print(f"\n{name}: exact JSON, mean over prompts and seeds [95 % interval]; gain over sft-longer, seeds above zero")
    print(
        f"{'row':<12}{'shape':<9}"
        + "".join(f"{_title(c):>22}" for c in COLUMNS)
        + f"{'gain T=1':>14}{'gain own T':>16}"
    )
    for line in table:
        cells = "".join(f"{_text(line[name][c]):>22}" for c in COLUMNS)
        gains = "".join(f"{_wins(line['gain'].get(name, {}).get(c)):>{w}}" for c, w in (("1.0", 14), ("own", 16)))
        print(f"{line['row']:<12}{line['shape']:<9}{cells}{gains}")


def _title(column: str) -> str:
    return {"own": "own T (dev)", "0.0": "greedy"}.get(column, f"T={column}")


def _text(cell: Sequence[float]) -> str:
    return f"{cell[0]:.3f} [{cell[1]:.3f}, {cell[2]:.3f}]"


def _wins(gains: Sequence[Sequence[float]] | None) -> str:
    if not gains:
        return "-"
    above = sum(low > 0 for _, low, _ in gains)
    return f"{np.mean([g[0] for g in gains]):+.3f} ({above}/{len(gains)})"


def _as_list(interval: Interval) -> list[float]:
    return [round(interval.mean, 4), round(interval.low, 4), round(interval.high, 4)]


def _machine() -> dict[str, Any]:
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
    return {
        "commit": commit.stdout.strip(),
        "platform": platform.platform(terse=True),
        "python": platform.python_version(),
        "cores": os.cpu_count(),
    }
