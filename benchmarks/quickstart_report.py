"""Tables of the quickstart benchmark: the mean over seeds per row, and its gains over both kinds of SFT."""

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
BASELINES = ("sft", "sft-longer")
"""Of the shape "all": every anchor, as the recipe has it and for the core-seconds of RL."""


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
            line[name] = {c: as_list(pooled(found, name, c)) for c in COLUMNS}
        line["own temperature"] = [r["own"] for r in found]
        for beside in ("distinct-2", "anchor NLL", "tokens", "core seconds"):
            line[beside] = round(float(np.mean([r[beside] for r in found])), 3)
        line["gain"] = {base: _gains(by_row, (row, shape), (base, "all")) for base in BASELINES}
        table.append(line)
    for name in results[0][3]["sets"]:
        _print(table, name)
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps({"machine": machine(), "rows": table}, indent=1) + "\n")
    print(f"\nwritten: {out.relative_to(Path.cwd()) if out.is_relative_to(Path.cwd()) else out}")


def _gains(
    by_row: Mapping[tuple[str, str], Mapping[int, Mapping[str, Any]]], key: tuple[str, str], base: tuple[str, str]
) -> dict[str, Any]:
    """Per set and column, the paired gain over a baseline: pooled over seeds, and [mean, low, high] by seed."""
    baseline = by_row.get(base, {})
    shared = sorted(set(by_row[key]) & set(baseline))
    if key == base or not shared:
        return {}
    found: dict[str, Any] = {}
    for name in baseline[shared[0]]["sets"]:
        for c in COLUMNS:
            pairs = [(values(by_row[key][s], name, c), values(baseline[s], name, c)) for s in shared]
            pooled_gain = paired_difference(
                np.stack([a for a, _ in pairs], 1), np.stack([b for _, b in pairs], 1), seed=0
            )
            by_seed = [as_list(paired_difference(a, b, seed=s)) for s, (a, b) in zip(shared, pairs, strict=True)]
            found.setdefault(name, {})[c] = {"pooled": as_list(pooled_gain), "seeds": by_seed}
    return found


def _print(table: Sequence[dict[str, Any]], name: str) -> None:
    print(f"\n{name}: exact JSON, mean over prompts and seeds")
    print(f"{'row':<12}{'shape':<9}" + "".join(f"{_title(c):>8}" for c in COLUMNS), end="")
    print("".join(f"{f'own T - {base} [95 %] (seeds)':>36}" for base in BASELINES))
    for line in table:
        cells = "".join(f"{line[name][c][0]:>8.3f}" for c in COLUMNS)
        gains = "".join(f"{_gain(line['gain'][base].get(name, {}).get('own')):>36}" for base in BASELINES)
        print(f"{line['row']:<12}{line['shape']:<9}{cells}{gains}")


def _title(column: str) -> str:
    return {"own": "own T", "0.0": "greedy"}.get(column, f"T={column}")


def _gain(gain: Mapping[str, Any] | None) -> str:
    """Pooled gain, its interval, and in how many seeds the interval is above zero."""
    if gain is None:
        return "-"
    mean, low, high = gain["pooled"]
    above = sum(seed_low > 0 for _, seed_low, _ in gain["seeds"])
    return f"{mean:+.3f} [{low:+.3f}, {high:+.3f}] ({above}/{len(gain['seeds'])})"


def as_list(interval: Interval) -> list[float]:
    """Mean, low and high, to four digits."""
    return [round(interval.mean, 4), round(interval.low, 4), round(interval.high, 4)]


def machine() -> dict[str, Any]:
    """Commit, platform and cores."""
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
    return {
        "commit": commit.stdout.strip(),
        "platform": platform.platform(terse=True),
        "python": platform.python_version(),
        "cores": os.cpu_count(),
    }
