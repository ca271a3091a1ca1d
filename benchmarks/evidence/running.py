"""Cells in processes of their own, each on one core."""

from __future__ import annotations

import json
import os
import tempfile
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from benchmarks.cells import run_alone
from benchmarks.evidence.store import Cell, Store

CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def run_all(store: Store, cells: Sequence[Cell], jobs: int) -> None:
    """Run them, `jobs` at a time; each is kept as soon as it is there.

    Raises:
        SystemExit: a cell failed; what was finished before is kept.
    """
    lock = threading.Lock()
    done = 0

    def run(cell: Cell) -> None:
        nonlocal done
        started = time.monotonic()
        with tempfile.TemporaryDirectory() as folder:
            out = Path(folder) / "result.json"
            title = f"{cell.task} {cell.row} seed {cell.seed}"
            run_alone(title, "benchmarks.evidence", "--cell", cell.settings, str(out))
            with lock:
                store.keep(cell, json.loads(out.read_text(encoding="utf-8")))
                done += 1
                taken = time.monotonic() - started
                print(
                    f"{done:>4}/{len(cells)}  {cell.task:<8}{cell.row:<22} seed {cell.seed}  {taken:4.0f} s", flush=True
                )

    with ThreadPoolExecutor(jobs) as pool:
        futures = [pool.submit(run, cell) for cell in cells]
        try:
            for future in futures:
                future.result()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
