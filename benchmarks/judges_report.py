"""Tables of the judges' benchmark: accuracy pooled over seeds, and gains prompt by prompt."""

from __future__ import annotations

import json
import platform
import subprocess
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from pudistill_cli.backend_api import cpu
from pudistill_cli.method.statistics import bootstrap_mean, paired_difference

ROOT = Path(__file__).resolve().parent.parent
OVER = (
    ("verdict", "likelihood"),
    ("pairwise", "likelihood"),
    ("verdict-contextual", "verdict"),
    ("verdict-batch", "verdict"),
    ("verdict, both wordings", "verdict"),
    ("verdict-batch, both wordings", "verdict"),
    ("pairwise, both wordings", "pairwise"),
    ("one-order", "pairwise"),
    ("one-order-batch", "one-order"),
    ("likelihood/length", "likelihood"),
    ("verdict/length", "verdict"),
    ("pairwise/length", "pairwise"),
    ("likelihood+verdict", "likelihood"),
    ("likelihood+token-f1", "likelihood"),
    ("likelihood+token-f1+verdict", "likelihood+token-f1"),
    ("likelihood+token-f1+verdict (agreement)", "likelihood+token-f1+verdict"),
    ("likelihood+verdict+pairwise (agreement)", "likelihood+verdict+pairwise"),
    ("likelihood+verdict+pairwise+random (agreement)", "likelihood+verdict+pairwise+random"),
    ("likelihood+pairwise+reversed-verdict (agreement)", "likelihood+pairwise+reversed-verdict"),
)
"""Which scorer is compared with which plainer one, prompt by prompt."""


def pooled(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Accuracy by judge and scorer over all seeds, with the paired gain over the plain scorer of `OVER`."""
    by_prompt: dict[tuple[str, str], dict[str, list[float]]] = {}
    for row in rows:
        accuracies = by_prompt.setdefault((row["judge"], row["scorer"]), {})
        for key, value in row["pairs"].items():
            if np.isfinite(value):
                accuracies.setdefault(key, []).append(value)
    means = {name: {k: float(np.mean(v)) for k, v in accuracies.items()} for name, accuracies in by_prompt.items()}
    table: list[dict[str, Any]] = []
    for (judge, scorer), values in means.items():
        line = {"judge": judge, "scorer": scorer, "accuracy": asdict(bootstrap_mean(list(values.values()), seed=0))}
        over = next((plain for variant, plain in OVER if variant == scorer), None)
        if over is not None:
            plain = means[judge, over]
            gain = paired_difference([values[k] for k in plain], [plain[k] for k in plain], seed=0)
            line["gain"] = {"over": over, **asdict(gain)}
        table.append(line)
    return table


def show(table: Sequence[dict[str, Any]]) -> None:
    """Accuracy within groups, a column for each judge; then the gain after SFT of what is to be compared."""
    judges = list(dict.fromkeys(row["judge"] for row in table))
    print(f"{'accuracy within groups':<50}" + "".join(f"{judge:>11}" for judge in judges))
    for name in dict.fromkeys(row["scorer"] for row in table):
        cells = [row["accuracy"]["mean"] for row in table if row["scorer"] == name]
        print(f"{name:<50}" + "".join(f"{cell:>11.3f}" for cell in cells))
    for row in table:
        if "gain" in row:
            gain = row["gain"]
            interval = f"{gain['mean']:+.3f} [{gain['low']:+.3f}, {gain['high']:+.3f}]"
            print(f"judge {row['judge']:<10}{row['scorer']} - {gain['over']}: {interval}")


def write(done: Sequence[dict[str, Any]], out: Path) -> dict[str, Any]:
    """The results of the cells that are done, pooled over seeds."""
    rows = [row for cell in done for row in cell["rows"]]
    judged = [row for row in rows if "pairs" in row]
    record = {
        **provenance(),
        "core_seconds": sum(cell["core_seconds"] for cell in done),
        "pooled": pooled(judged),
        "training": [row for row in rows if "pairs" not in row],
        "judging": [{k: v for k, v in row.items() if k != "pairs"} for row in judged],
    }
    out.write_text(json.dumps(record, indent=1) + "\n")
    return record


def provenance() -> dict[str, Any]:
    """The commit, and the machine."""
    commit = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False)
    name, features = cpu.name_and_features()
    machine = {"cpu": name, "features": features, "platform": platform.platform()}
    return {"commit": commit.stdout.strip(), "machine": machine}
