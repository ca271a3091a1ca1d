"""What `make real` takes and gains: recipes/smollm2 on its real student, by stage, with its exports' proofs.

    python -m benchmarks.real_student
    python -m benchmarks.real_student --set sft.students=3 --set prefer.rounds=4 --out result.json

The student's file comes from PyPI, once a machine. The run is a process of its own, whose peak memory the operating
system tells; it has all cores.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.cells import ROOT
from benchmarks.fixtures.smollm2.fetch import FetchError, fetch
from benchmarks.timed_runs import machine, timed_run, verifications

RESULTS = ROOT / "benchmarks" / "results" / "real_student.json"
RECIPE = "smollm2"


def run_real_student(folder: Path, changes: Sequence[str], recipe: str = RECIPE) -> dict[str, Any]:
    """Run the recipe into `folder`; a setting of the recipe is changed by "a.b=c".

    Raises:
        SystemExit: the run did not end well.
    """
    options = ["--offline", "--name", "run", *(option for change in changes for option in ("--set", change))]
    events, spent = timed_run([recipe, *options], folder)
    (results,) = (event for event in events if event["event"] == "results")
    worth = {name: results[name] for name in ("headline", "chosen", "gained", "verdict")}
    return {**spent, **worth, "exports": verifications(folder / "runs" / "run")}


def main() -> None:
    """Fetch, run, write and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--set", dest="changes", action="append", default=[], metavar="A.B=C", help="as pudistill run")
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    try:
        fetch()
    except FetchError as error:
        raise SystemExit(f"Skipped: {error}") from error
    with tempfile.TemporaryDirectory() as name:
        before = machine("cpu")
        run = run_real_student(Path(name), options.changes)
    result = {"machine": before, "settings": options.changes, "run": run}
    options.out.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
