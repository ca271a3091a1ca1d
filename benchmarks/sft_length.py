"""SFT that stops on dev, against a number of epochs chosen by hand: `python -m benchmarks.sft_length`.

Tasks and students of the evidence; one student of plain SFT, and the recipe's default of three with rewrites. By hand
are the epochs, the rate and the batch that were published (benchmarks/evidence/rows.py, the tasks' recipes); `auto`
sets none of them. Both train on the seed's 100 anchors; the test prompts have chosen nothing. Gains are paired over
prompts, the seeds averaged. Cells that are there are not run again; about a minute each on one core.

    python -m benchmarks.sft_length                       what is missing, then the table
    python -m benchmarks.sft_length --tasks note --seeds 0
    python -m benchmarks.sft_length --wide                actions by a student of 0.74 million parameters, which is
                                                          pretrained first: about ten minutes
"""

from __future__ import annotations

import argparse
import json
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.cells import ROOT, run_alone
from benchmarks.evidence.rows import EPOCHS
from benchmarks.evidence.tasks import able
from benchmarks.fixtures.quickstart.build import STUDENT_SEED, held_out
from benchmarks.fixtures.quickstart.curriculum import stream
from benchmarks.fixtures.quickstart.pretrain import Shape, pretrain
from pudistill_cli.method.statistics import bootstrap_mean

RESULTS = ROOT / "benchmarks" / "results" / "sft_length.json"
SEEDS = (0, 1, 2)
TEMPERATURES = ("0.0", "1.0")
PLAIN = ("prefer.rounds=0", "sft.students=1", "sft.rewrites=false")
AUTO = ("sft.epochs=auto", "sft.lr=auto", "sft.batch=auto")
WIDE = Shape(hidden=160, intermediate=432)
"""Four times the weights of the actions' student, on the same curriculum."""
WIDE_FOLDER = ROOT / ".benchmarks" / "wide-student"
BATCH = {"action": 16, "note": 16, "story": 8}
"""As published, when it was the default, or the story's own."""


def variants(task: str) -> dict[str, tuple[str, ...]]:
    """What is compared, as settings over the task's recipe."""
    batch = f"sft.batch={BATCH[task]}"
    return {
        "plain, by hand": (*PLAIN, f"sft.epochs={EPOCHS[task]}", batch),
        "plain, auto": (*PLAIN, *AUTO),
        "default, by hand": ("prefer.rounds=0", batch),
        "default, auto": ("prefer.rounds=0", "sft.students=auto", *AUTO),
    }


def wide_student() -> Path:
    """The folder of the larger student, pretrained if it is not there."""
    if not (WIDE_FOLDER / "config.json").is_file():
        pretrain(partial(stream, STUDENT_SEED, held_out()), STUDENT_SEED, WIDE_FOLDER, WIDE)
    return WIDE_FOLDER


def main() -> None:
    """Run what is missing, then print gains with intervals."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", nargs="+", default=list(EPOCHS), choices=list(EPOCHS))
    parser.add_argument("--seeds", nargs="+", type=int, default=list(SEEDS))
    parser.add_argument("--plain", action="store_true", help="one student of plain SFT alone")
    parser.add_argument("--wide", action="store_true", help="actions alone, by the larger student")
    chosen = parser.parse_args()
    student, tasks = "", chosen.tasks
    if chosen.wide:
        student, tasks = f"student.model={wide_student()}", ["action"]
    cells = _kept()
    for seed in chosen.seeds:
        for task in able(tasks):
            for name, settings in variants(task).items():
                key = f"{_named(task, chosen.wide)} {seed} {name}"
                if key in cells or (chosen.plain and name.startswith("default")):
                    continue
                cells[key] = _cell({
                    "task": task, "seed": seed, "set": [*settings, *([student] if student else [])],
                    "ranking": "", "epochs": [], "dev only": False,
                })  # fmt: skip
                _keep(cells)
                print(f"{key}: {cells[key]['core seconds']} core-seconds", flush=True)
    for task in tasks:
        for kind in ("plain", "default"):
            _print_gain(cells, _named(task, chosen.wide), kind)


def _named(task: str, wide: bool) -> str:
    return f"{task}-wide" if wide else task


def _kept() -> dict[str, Any]:
    return json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.is_file() else {}


def _keep(cells: dict[str, Any]) -> None:
    """A cell a line."""
    lines = (f"{json.dumps(key)}: {json.dumps(cell, separators=(',', ':'))}" for key, cell in sorted(cells.items()))
    RESULTS.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")


def _cell(settings: dict[str, Any]) -> dict[str, Any]:
    """The test grades of one cell, in thousandths, and what it cost."""
    path = RESULTS.with_suffix(".cell")
    run_alone(str(settings), "benchmarks.evidence", "--cell", json.dumps(settings), str(path))
    cell = json.loads(path.read_text(encoding="utf-8"))
    path.unlink()
    return {"core seconds": cell["core seconds"], "test": {t: cell["grades"]["test"][t] for t in TEMPERATURES}}


def _print_gain(cells: dict[str, Any], task: str, kind: str) -> None:
    seeds = [s for s in range(100) if {f"{task} {s} {kind}, {how}" for how in ("auto", "by hand")} <= cells.keys()]
    for temperature in TEMPERATURES:
        hand, auto = (
            np.array([cells[f"{task} {s} {kind}, {how}"]["test"][temperature] for s in seeds]) / 1000
            for how in ("by hand", "auto")
        )
        if seeds:
            gain = bootstrap_mean((auto - hand).mean(axis=0), seed=0)
            title = f"{task:<11} {kind:<8} {'greedy' if temperature == '0.0' else 'T = 1':<6} {len(seeds)} seeds"
            interval = f"{gain.mean:+.3f} [{gain.low:+.3f}, {gain.high:+.3f}]"
            print(f"{title}: by hand {hand.mean():.3f}, auto {auto.mean():.3f}, {interval}")


if __name__ == "__main__":
    main()
