"""How far to draw a fine-tuned student towards the base: `eval.interpolation`, on dev and out of template.

    python -m benchmarks.interpolation              all cells that are not cached, then the table
    python -m benchmarks.interpolation --report     the table of what is cached

A cell is (task, way, seed): SFT, with rewrites or without, on the seed's 100 anchors, then base + share x what was
learned for each share, greedy and at T = 1, one answer a prompt. The prompts out of template are in no other file: the
table of `benchmarks.evidence` has others, so that it can tell whether what is chosen here holds.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import tempfile
from collections.abc import Mapping, Sequence
from functools import partial
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.cells import ROOT, code_hash, run_alone
from benchmarks.evidence.cell import learned
from benchmarks.evidence.rows import PLAIN, WHOLE
from benchmarks.evidence.statistics import over_prompts_and_seeds
from benchmarks.evidence.store import DEPENDS_ON, FIXTURES, commit
from benchmarks.evidence.tasks import TASKS
from benchmarks.evidence.tasks.drawing import fresh
from benchmarks.fixtures.note import grammar as notes
from benchmarks.fixtures.note.wordings import OTHER as OTHER_NOTES
from benchmarks.fixtures.quickstart import grammar as actions
from benchmarks.fixtures.quickstart import teacher
from benchmarks.fixtures.quickstart.build import write_lines
from benchmarks.fixtures.quickstart.wordings import OTHER as OTHER_ACTIONS
from pudistill_cli.evaluate import Evaluator, System
from pudistill_cli.stages.interpolation import interpolated

CACHE = ROOT / ".benchmarks" / "interpolation"
RESULTS = ROOT / "benchmarks" / "results" / "interpolation.json"
SEEDS = (0, 1, 2, 3)
SHARES = (1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4)
TEMPERATURES = (1.0, 0.0)
OTHERS = 600
WAYS = {task: {"sft": (*PLAIN[task],), "sft-rewrites": (WHOLE,)} for task in ("action", "note")}
Result = Mapping[str, Mapping[str, Sequence[float]]]
"""By share, by set and temperature: a grade a prompt."""


def measure(task: str, way: str, seed: int, out: Path) -> None:
    """The inside of a cell."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        os.environ["PUDISTILL_CACHE"] = temporary
        TASKS[task].write(folder, seed)
        write_lines(folder / "prompts-other.jsonl", others(task))
        settings = {"seed": seed, "set": (*WAYS[task][way], "prefer.rounds=0"), "ranking": ""}
        job, anchors, sft = learned(folder, settings, 0, [])
        evaluator = Evaluator(job, {name: anchors.held_out[name] for name in ("dev", "other")}, samples=1)
        result = {}
        for share in SHARES:
            name = interpolated(job.folder, sft.name, share)
            result[str(share)] = {
                f"{held_out}@{t:g}": evaluator.quality(System(name, name), held_out, t)[:, 0].round(4).tolist()
                for held_out in evaluator.sets
                for t in TEMPERATURES
            }
        job.close()
    partial_file = out.with_suffix(".partial")
    partial_file.write_text(json.dumps(result) + "\n")
    partial_file.replace(out)


def others(task: str) -> list[dict[str, str]]:
    """Prompts out of template with the truth, the same for every seed."""
    rng = random.Random(f"interpolation: {task}")
    if task == "action":
        drawn = fresh(partial(actions.request, rng, OTHER_ACTIONS), OTHERS, set())
        return [{"prompt": r.text, "reference": teacher.write(r.action)} for r in drawn]
    return [
        {"prompt": r.text, "reference": r.spec.to_json()}
        for r in fresh(partial(notes.request, rng, OTHER_NOTES), OTHERS, set())
    ]


def report(results: Mapping[tuple[str, str], Sequence[Result]]) -> None:
    """Print and write levels, and gains over all of it, paired by prompt and seed; intervals over both."""
    table: list[dict[str, Any]] = []
    for (task, way), found in results.items():
        for share in map(str, SHARES):
            line: dict[str, Any] = {"task": task, "way": way, "share": float(share), "seeds": len(found)}
            for column in found[0][share]:
                grades, whole = (np.stack([r[s][column] for r in found], axis=1) for s in (share, "1.0"))
                line[column] = round(float(grades.mean()), 4)
                line[f"{column}, gain"] = [round(x, 4) for x in over_prompts_and_seeds(grades - whole)]
            table.append(line)
            print(json.dumps(line))
    where = {"commit": commit(), "platform": platform.platform(terse=True), "cores": os.cpu_count()}
    RESULTS.write_text(json.dumps({"machine": where, "rows": table}, indent=1) + "\n")


def path_of(task: str, way: str, seed: int) -> Path:
    """Where a cell's result is kept."""
    code = code_hash((*DEPENDS_ON, *FIXTURES[task], "benchmarks/interpolation.py"))
    key = blake2b(json.dumps([WAYS[task][way], code]).encode(), digest_size=6).hexdigest()
    return CACHE / f"{task}-{way}-{seed}-{key}.json"


def main() -> None:
    """Run what is missing, cell by cell, then write and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", nargs="*", default=list(WAYS), choices=list(WAYS))
    parser.add_argument("--seeds", nargs="*", type=int, default=list(SEEDS))
    parser.add_argument("--report", action="store_true", help="only print what is cached")
    parser.add_argument("--cell", nargs=4, metavar=("TASK", "WAY", "SEED", "OUT"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.cell:
        task, way, seed, out = options.cell
        measure(task, way, int(seed), Path(out))
        return
    CACHE.mkdir(parents=True, exist_ok=True)
    results: dict[tuple[str, str], list[Result]] = {}
    for task in options.tasks:
        for way in WAYS[task]:
            for seed in options.seeds:
                path = path_of(task, way, seed)
                if not path.exists() and not options.report:
                    title = f"{task} {way} seed {seed}"
                    run_alone(title, "benchmarks.interpolation", "--cell", task, way, str(seed), str(path))
                    print(title, flush=True)
                if path.exists():
                    results.setdefault((task, way), []).append(json.loads(path.read_text()))
    report(results)


if __name__ == "__main__":
    main()
