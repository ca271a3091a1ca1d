"""What candidates are worth: held-out quality for the tokens that the student samples, on the quickstart task.

    python -m benchmarks.fewer_candidates              all cells that are not cached, then the table
    python -m benchmarks.fewer_candidates --report     the table of what is cached

SFT on a quarter of the anchored prompts, without rewrites, RL on the rest: the shape where RL has most to give. A cell
is (row, seed), a process of its own on one core, cached by the code and the settings it depends on. Dev chooses the
round; test is read once a cell and chooses nothing.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import tempfile
import time
from collections.abc import Mapping, Sequence
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.cells import ROOT, code_hash, run_alone
from benchmarks.evidence.store import commit
from benchmarks.evidence.tasks import action
from pudistill_cli.config.loading import load_recipe
from pudistill_cli.config.stages import Stage
from pudistill_cli.loop import distil
from pudistill_cli.method.statistics import Interval, bootstrap_mean, paired_difference
from pudistill_cli.run.marks import Mark
from pudistill_cli.run.opening import open_run
from pudistill_cli.run.plan import plan
from pudistill_cli.run.rollouts import of_round
from pudistill_cli.stages.anchors import ask_teacher
from pudistill_cli.stages.evaluator import Evaluator, System
from pudistill_cli.stages.selection import Selection
from pudistill_cli.terminal.console import Console

CACHE = ROOT / ".benchmarks" / "fewer_candidates"
RESULTS = ROOT / "benchmarks" / "results" / "fewer_candidates.json"
SEEDS = (0, 1, 2)
TEMPERATURES = (1.0, 0.0)
SHAPE = ("sft.share=0.25", "sft.epochs=8", "sft.students=1", "sft.rewrites=false", "prefer.rounds=4", "train.lr=1.0e-3",
         "eval.dev_temperatures=[1.0]", "eval.samples=2")  # fmt: skip
DEPENDS_ON = ("pudistill_cli/method", "pudistill_cli/stages", "pudistill_cli/loop.py",
              "backends/pudistill_torch", "benchmarks/evidence/tasks/action.py", "benchmarks/fixtures/quickstart",
              "recipes/quickstart/student")  # fmt: skip
ROWS = {
    "k4": ("prefer.k=4",),
    "k2": ("prefer.k=2",),
    "adaptive": ("prefer.k=4", "prefer.k_min=2"),
    "k2-reuse1": ("prefer.k=2", "prefer.reuse=1"),
    "k2-reuse2": ("prefer.k=2", "prefer.reuse=2"),
}
BASELINES = ("k4", "k2")
Result = Mapping[str, Any]


def measure(row: str, seed: int, out: Path) -> None:
    """The inside of a cell: run the loop, then read test with SFT's adapter and with the one that dev chose."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        os.environ["PUDISTILL_CACHE"] = temporary
        action.write(folder, seed)
        recipe = load_recipe(str(folder / "recipe.yaml"), [*SHAPE, *ROWS[row], f"seed={seed}"]).recipe
        console = Console(as_json=False)
        job = open_run(plan(recipe, console), console, folder / "runs", "cell")
        started = time.process_time()
        distil(job, until=Stage.PREFER)
        seconds = time.process_time() - started
        anchors = ask_teacher(job)
        best = Selection(job, anchors, None)
        done = [n for n in range(1, recipe.prefer.rounds + 1) if job.ledger.stage_done(Mark.ROUND(n))]
        for name in ("sft", *(f"round-{n}" for n in done)):
            best.consider(name)
        evaluator = Evaluator(job, {"test": anchors.held_out["test"]})
        chosen = best.choice.name
        drawn = [job.ledger.candidates(of_round(n)) for n in done]
        result = {
            "chosen": chosen,
            "core seconds": seconds,
            "candidates": [sum(map(len, groups.values())) for groups in drawn],
            "tokens": [sum(len(c.tokens) for group in groups.values() for c in group) for groups in drawn],
            "reused": {
                f"{m.name}, round {m.round}": m.value for m in job.ledger.metrics("prefer") if "reuse" in m.name
            },
            "dev": {c.name: c.score for c in best.considered},
            "test": {
                name: {
                    str(t): evaluator.quality(System(name, name), "test", t).mean(axis=1).tolist() for t in TEMPERATURES
                }
                for name in dict.fromkeys(("sft", chosen))
            },
        }
        job.close()
    partial = out.with_suffix(".partial")
    partial.write_text(json.dumps(result) + "\n")
    partial.replace(out)


def path_of(row: str, seed: int, code: str) -> Path:
    """Where a cell's result is kept."""
    key = blake2b(json.dumps([SHAPE, ROWS[row], code]).encode(), digest_size=6).hexdigest()
    return CACHE / f"{row}-{seed}-{key}.json"


def report(results: Mapping[str, Sequence[Result]]) -> None:
    """Print and write the table: means over prompts and seeds, intervals over prompts, the seeds' values averaged."""
    table: list[dict[str, Any]] = []
    for row, of_row in results.items():
        tokens = round(float(np.mean([sum(r["tokens"]) for r in of_row])))
        line: dict[str, Any] = {"row": row, "settings": list(ROWS[row]), "seeds": len(of_row), "tokens": tokens}
        for name in ("candidates", "core seconds"):
            line[name] = round(float(np.mean([np.sum(r[name]) for r in of_row])), 1)
        line["chosen"] = [r["chosen"] for r in of_row]
        for t in map(str, TEMPERATURES):
            after, before = values(of_row, t), values(of_row, t, sft=True)
            gain = paired_difference(after, before, seed=0)
            line[t] = {
                "exact": as_list(bootstrap_mean(after, seed=0)),
                "gain over SFT": as_list(gain),
                "gain, points per 1,000 tokens": [round(1e5 * x / tokens, 3) for x in (gain.mean, gain.low, gain.high)],
            }
            for base in BASELINES:
                if row != base and len(results.get(base, ())) == len(of_row):
                    line[t][f"over {base}"] = as_list(paired_difference(after, values(results[base], t), seed=0))
        table.append(line)
    for line in table:
        print(json.dumps(line))
    where = {"commit": commit(), "platform": platform.platform(terse=True), "cores": os.cpu_count()}
    RESULTS.write_text(json.dumps({"machine": where, "rows": table}, indent=1) + "\n")


def as_list(interval: Interval) -> list[float]:
    """Mean, low and high, to four digits."""
    return [round(x, 4) for x in (interval.mean, interval.low, interval.high)]


def values(of_row: Sequence[Result], temperature: str, *, sft: bool = False) -> np.ndarray:
    """(N, S) exact per test prompt, mean over samples, for each seed's chosen adapter or for SFT's."""
    return np.stack([r["test"]["sft" if sft else r["chosen"]][temperature] for r in of_row], axis=1)


def main() -> None:
    """Run what is missing, cell by cell, then write and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="*", default=list(ROWS), choices=ROWS, help="rows to run")
    parser.add_argument("--seeds", nargs="*", type=int, default=list(SEEDS))
    parser.add_argument("--report", action="store_true", help="only print what is cached")
    parser.add_argument("--cell", nargs=3, metavar=("ROW", "SEED", "OUT"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.cell:
        row, seed, out = options.cell
        measure(row, int(seed), Path(out))
        return
    CACHE.mkdir(parents=True, exist_ok=True)
    code = code_hash(DEPENDS_ON)
    wanted = [(row, seed, path_of(row, seed, code)) for seed in options.seeds for row in options.only]
    for row, seed, path in wanted if not options.report else ():
        if not path.exists():
            title = f"{row} seed {seed}"
            run_alone(title, "benchmarks.fewer_candidates", "--cell", row, str(seed), str(path))
            print(title, flush=True)
    results: dict[str, list[Result]] = {}
    for row, _, path in wanted:
        if path.exists():
            results.setdefault(row, []).append(json.loads(path.read_text()))
    report(results)


if __name__ == "__main__":
    main()
