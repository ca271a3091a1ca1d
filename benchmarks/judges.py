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
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from hashlib import blake2b
from pathlib import Path

from benchmarks.judges_cells import cells, measure_cell
from benchmarks.judges_report import show, write

ROOT = Path(__file__).resolve().parent.parent
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
    code = code_hash()
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
    """In a process of its own, on one thread; done when its file is there."""
    one_thread = {f"{library}_NUM_THREADS": "1" for library in ("OMP", "MKL", "OPENBLAS")}
    command = [sys.executable, "-m", "benchmarks.judges", "--cell", name, str(out)]
    done = subprocess.run(command, cwd=ROOT, env=os.environ | one_thread, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{name} failed:\n{done.stderr[-4000:]}")
    print(f"{name}: {json.loads(out.read_text())['core_seconds']} core-seconds", flush=True)


def code_hash() -> str:
    """Of every file that a cell's result depends on."""
    digest = blake2b(digest_size=6)
    for name in DEPENDS_ON:
        path = ROOT / name
        files = sorted(p for p in path.rglob("*") if p.is_file() and p.suffix != ".pyc") if path.is_dir() else [path]
        for file in files:
            digest.update(file.relative_to(ROOT).as_posix().encode() + file.read_bytes())
    return digest.hexdigest()


if __name__ == "__main__":
    main()
