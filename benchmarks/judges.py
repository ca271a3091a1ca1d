"""What every scorer is worth where the truth is known and the student can judge: `python -m benchmarks.judges`.

The fixture's student samples four answers to each of 150 dev prompts, after SFT; the truth is the action that was asked
for. Three judges rank them: the base, the snapshot after SFT, and the student after two rounds of RL ("refreshed"). A
seed has its own SFT, RL and samples. Then what the ranking is worth to the student: four rounds of RL by some of them,
exact answers at greedy decoding on 600 test prompts. One core, about ten minutes.

    python -m benchmarks.judges                  what is not cached, then the tables
    python -m benchmarks.judges --seeds 0 --training-seeds
"""

from __future__ import annotations

import argparse
import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from benchmarks.cells import ROOT, code_hash, run_alone
from benchmarks.judges_cells import cells, measure_cell
from benchmarks.judges_report import show, write

CACHE = ROOT / ".benchmarks" / "judges"
DEPENDS_ON = ("pudistill_cli/method", "pudistill_cli/judging", "pudistill_cli/stages", "backends/pudistill_torch",
              "recipes/quickstart", "benchmarks/fixtures/judge", "benchmarks/judges_cells.py",
              "benchmarks/judges_scorers.py")  # fmt: skip
RESULTS = ROOT / "benchmarks" / "results" / "judges.json"
SEEDS = (0, 1)
TRAINING_SEEDS = (0,)


def main() -> None:
    """Measure what is not cached, then print and write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", nargs="*", type=int, default=list(SEEDS), help="of the measured scorers")
    parser.add_argument("--training-seeds", nargs="*", type=int, default=list(TRAINING_SEEDS), help="of RL by each")
    parser.add_argument("--jobs", type=int, default=1, help="cells at a time")
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--cell", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.cell:
        measure_cell(options.cell[0], Path(options.cell[1]))
        return
    CACHE.mkdir(parents=True, exist_ok=True)
    code = code_hash(DEPENDS_ON)
    paths = {name: CACHE / f"{name}-{code}.json" for name in cells(options.seeds, options.training_seeds)}
    missing = [(name, path) for name, path in paths.items() if not path.exists()]
    with ThreadPoolExecutor(options.jobs) as pool:
        list(pool.map(lambda cell: run_cell(*cell), missing))
    record = write([json.loads(path.read_text()) for path in paths.values()], options.out)
    show(record["pooled"])
    for row in record["training"]:
        gain = row["gain"]
        print(
            f"RL by {row['scorer']}, judge {row['judge']}, seed {row['seed']}: {row['sft']:.3f} -> {row['rl']:.3f}, "
            f"{gain['mean']:+.3f} [{gain['low']:+.3f}, {gain['high']:+.3f}]"
        )
    print(f"{record['core_seconds']} core-seconds; written to {options.out}")


def run_cell(name: str, out: Path) -> None:
    """Done when its file is there."""
    run_alone(name, "benchmarks.judges", "--cell", name, str(out))
    print(f"{name}: {json.loads(out.read_text())['core_seconds']} core-seconds", flush=True)


if __name__ == "__main__":
    main()
