"""The evidence: every method, three tasks, four temperatures, up to eight seeds, out of template too.

    python -m benchmarks.evidence                        every cell that is not kept yet, then the tables and plots
    python -m benchmarks.evidence --only sft ldl-grpo --tasks action --seeds 0 1
    python -m benchmarks.evidence --report               the tables alone

A cell is (task, row, seed): the product's own loop in a process on one core, 60 core-seconds at most. It is kept in
benchmarks/results/evidence by the code and settings it depends on, so an interrupted table goes on where it stopped.
Dev chooses rounds, epochs and each row's own temperature. Test and `other` are read once a cell, and it is counted.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from benchmarks.evidence.cell import run_cell
from benchmarks.evidence.report import report
from benchmarks.evidence.rows import rows
from benchmarks.evidence.running import CORES, run_all
from benchmarks.evidence.store import RESULTS, Cell, Store, cell, missing
from benchmarks.evidence.tasks import TASKS, able

SEEDS = {"action": range(8), "note": range(8), "story": range(5)}
"""Of a task. Five leave +-.03 on actions; stories are where nothing is gained (LOG.md)."""


def cells(tasks: list[str], only: list[str], seeds: list[int]) -> list[Cell]:
    """Every cell, seed by seed, so that an unfinished table compares whole rows; no seeds are each task's own."""
    return [
        cell(
            task,
            row.name,
            seed,
            {"set": row.overrides, "ranking": row.ranking, "epochs": row.epochs, "dev only": False},
        )
        for seed in seeds or range(max(map(len, SEEDS.values())))
        for task in tasks
        if seeds or seed in SEEDS[task]
        for row in rows(task)
        if not only or row.name in only
    ]


def main() -> None:
    """Run what is missing, then write and print the tables of all that is kept."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", nargs="*", default=list(TASKS), choices=list(TASKS))
    parser.add_argument("--only", nargs="*", default=[], help="rows to run")
    parser.add_argument("--seeds", nargs="*", type=int, default=[], help="instead of each task's own")
    parser.add_argument("--jobs", type=int, default=CORES, help="cells at a time")
    parser.add_argument("--report", action="store_true", help="run nothing")
    parser.add_argument("--cell", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.cell:
        Path(options.cell[1]).write_text(json.dumps(run_cell(json.loads(options.cell[0]))), encoding="utf-8")
        return
    store = Store(RESULTS / "cells.jsonl")
    if not options.report:
        wanted = cells(able(options.tasks), options.only, options.seeds)
        todo = missing(store, wanted)
        print(f"{len(wanted)} cells, {len(todo)} to run, {options.jobs} at a time", flush=True)
        run_all(store, todo, options.jobs)
    asked = cells(list(TASKS), [], options.seeds) if options.seeds else []
    every = dict.fromkeys((*cells(list(TASKS), [], []), *asked))  # what is kept needs no checkpoint
    report([(c, result) for c in every if (result := store.of(c)) is not None])


if __name__ == "__main__":
    main()
