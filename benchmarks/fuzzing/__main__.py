"""Run the cases and print what came of them; exit code 1 if any ended otherwise than in one sentence."""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from benchmarks.fuzzing.workers import run_cases


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--inputs", type=int, default=40_000)
    parser.add_argument("--scratch", type=Path, default=None)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="pudistill-fuzzing-", dir=args.scratch) as folder:
        tally = run_cases(args.seed, args.first, args.inputs, Path(folder))
    print(f"{args.inputs:,} inputs in {tally.seconds:.0f} s: {dict(tally.outcomes)}")
    print(f"slowest {tally.slowest[0]:.1f} s ({tally.slowest[1]}); largest memory {tally.peak_mib:,} MiB")
    return 0 if tally.sound else 1


if __name__ == "__main__":
    raise SystemExit(main())
