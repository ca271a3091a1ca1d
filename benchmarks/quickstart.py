"""The honest comparison on the quickstart task: every method at equal compute, five seeds, four temperatures.

    python -m benchmarks.quickstart              all cells that are not cached, then the tables
    python -m benchmarks.quickstart --only ldl-grpo sft-longer --seeds 0 1
    python -m benchmarks.quickstart --report     the tables of what is cached

A cell is (row, shape, seed): its own process on one core. It is cached by the code and the settings it depends on, so
an interrupted benchmark goes on where it stopped. Dev chooses the round and the row's own temperature; test and other
wordings are read once a cell and choose nothing. A seed has its own prompts, anchors, SFT and sampling; the student and
the held-out prompts are the shipped ones.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path

from benchmarks.cells import ROOT, code_hash, run_alone

CACHE = ROOT / ".benchmarks" / "quickstart"
RESULTS = ROOT / "benchmarks" / "results" / "quickstart.json"
DEPENDS_ON = ("pudistill_cli/method", "pudistill_cli/stages", "pudistill_cli/evaluate.py", "backends/pudistill_torch",
              "recipes/quickstart", "benchmarks/quickstart_cell.py", "benchmarks/fixtures/quickstart")  # fmt: skip
SEEDS = (0, 1, 2, 3, 4)
CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table: what is done after (or instead of) the common SFT."""

    name: str
    about: str
    overrides: tuple[str, ...] = ()
    ranking: str = ""
    """A ranking of the benchmark's own in place of the recipe's scorer: random or oracle."""
    shapes: tuple[str, ...] = ("all", "quarter")


# Shapes: SFT and RL on all 200 anchored prompts; or SFT on a quarter of them and RL on the rest.
SHAPES = {"all": (), "quarter": ("sft.share=0.25", "sft.epochs=8")}
NO_RL = "prefer.rounds=0"
ROWS = (
    Row("sft", "SFT on every anchor the method uses, as the recipe has it", (NO_RL,)),
    Row("sft-longer", "SFT for the core-seconds of LDL-GRPO", (NO_RL, "sft.epochs={longer}"), shapes=("all",)),
    Row("ldl-grpo", "the default"),
    Row("dpo", "pairs", ("train.objective=dpo",)),
    Row("grpo", "group-relative advantage", ("train.objective=grpo",)),
    Row("best-of-k", "NLL of the best candidate", ("train.objective=rft",)),
    Row("anchor-wins", "the anchor over every candidate", ("train.objective=spin",)),
    Row("sdft", "self-distillation: KL to the judge with the anchor in view", ("train.objective=sdft",)),
    Row("ldl-distil", "LDL-GRPO and self-distillation", ("train.objective={{name: ldl-grpo, distil: 1.0}}",)),
    Row("blind", "LDL-GRPO, the scorer without the anchor", ("rank.scorer=likelihood-blind", "rank.gates=false")),
    Row("random", "LDL-GRPO, random ranking", (), "random"),
    Row("oracle", "LDL-GRPO, ranking by the truth", (), "oracle"),
    Row("sft-10", "SFT for 10 epochs", (NO_RL, "sft.epochs=10"), shapes=("all",)),
)


@dataclass(frozen=True, slots=True)
class Cell:
    """One run of one row."""

    row: str
    shape: str
    seed: int
    settings: str
    code: str

    @property
    def path(self) -> Path:
        key = blake2b(f"{self.settings}|{self.code}".encode(), digest_size=6).hexdigest()
        return CACHE / f"{self.row}-{self.shape}-{self.seed}-{key}.json"


def cells(only: list[str], seeds: list[int], longer: int) -> list[Cell]:
    """Every cell, row by row, so that an unfinished benchmark has whole rows."""
    code = code_hash(DEPENDS_ON)
    found: list[Cell] = []
    for shape, common in SHAPES.items():
        for row in ROWS:
            if shape not in row.shapes or (only and row.name not in only):
                continue
            overrides = [*common, *(o.format(longer=longer) for o in row.overrides)]
            for seed in seeds:
                settings = json.dumps({"set": overrides, "ranking": row.ranking, "seed": seed})
                found.append(Cell(row.name, shape, seed, settings, code))
    return found


def run_cell(cell: Cell) -> None:
    """One line on the screen when it is done."""
    started = time.monotonic()
    title = f"{cell.row:<12}{cell.shape:<8} seed {cell.seed}"
    run_alone(title, "benchmarks.quickstart_cell", cell.settings, str(cell.path))
    print(f"{title}  {time.monotonic() - started:5.0f} s", flush=True)


def main() -> None:
    """Run what is missing, then write and print the tables."""
    from benchmarks.quickstart_report import report

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="*", default=[], choices=[r.name for r in ROWS], help="rows to run")
    parser.add_argument("--seeds", nargs="*", type=int, default=list(SEEDS))
    parser.add_argument("--longer", type=int, default=80, help="epochs of SFT for longer: equal core-seconds")
    parser.add_argument("--jobs", type=int, default=CORES)
    parser.add_argument("--report", action="store_true", help="only print what is cached")
    options = parser.parse_args()
    CACHE.mkdir(parents=True, exist_ok=True)
    wanted = cells(options.only, options.seeds, options.longer)
    missing = [c for c in wanted if not c.path.exists()]
    print(f"{len(wanted) - len(missing)} of {len(wanted)} cells cached; {options.jobs} at a time", flush=True)
    with ThreadPoolExecutor(options.jobs) as pool:
        list(pool.map(run_cell, [] if options.report else missing))
    done = [(c, json.loads(c.path.read_text())) for c in wanted if c.path.exists()]
    report([(c.row, c.shape, c.seed, result) for c, result in done], RESULTS)


if __name__ == "__main__":
    main()
