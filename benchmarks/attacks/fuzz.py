"""Feeds malformed inputs to every reader: each ends well, or with one sentence of the product's own.

A reader runs in a process of its own. One that takes too long is killed and counts as a hang; one that dies counts as
a crash; either way the inputs after it go on in a new process.
"""

from __future__ import annotations

import importlib
import itertools
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias

from benchmarks.cells import ONE_THREAD, ROOT
from pudistill_cli.errors import PudistillError

Inputs: TypeAlias = Iterator[tuple[str, Callable[[], object]]]
"""Each a name and a call, which returns or raises a PudistillError."""

SHARES = {
    "benchmarks.fuzzing.model_files": 0.25,
    "benchmarks.fuzzing.recipes": 0.2,
    "benchmarks.fuzzing.templates": 0.15,
    "benchmarks.fuzzing.bundles": 0.1,
    "benchmarks.fuzzing.replies": 0.3,
}
"""The readers' inputs, and which share of all each has."""
HANG_SECONDS = 20.0
"""No input is larger than some megabytes: what takes longer has no end in sight."""
MEMORY = 4 << 30
"""Bytes of address space beside those of the imports: what asks for more gets a MemoryError instead of the machine."""
KEPT = 20
"""Faults whose words are kept."""


@dataclass
class Fuzzed:
    """What came of one reader's inputs."""

    reader: str
    inputs: int = 0
    refused: int = 0
    """Inputs that ended with the product's own error."""
    tracebacks: int = 0
    crashes: int = 0
    hangs: int = 0
    peak_mib: float = 0.0
    """The most memory that the inputs took, beside that of the imports."""
    faults: list[str] = field(default_factory=list[str])


def fuzz(module: str, seed: int, count: int) -> Fuzzed:
    """Run `count` inputs of a module."""
    result = Fuzzed(module.rpartition(".")[2])
    first = 0
    while first < count:
        first = _one_process(module, seed, first, count, result)
    return result


def _one_process(module: str, seed: int, first: int, count: int, result: Fuzzed) -> int:
    """Inputs from `first` until the process ends; returns the input after the last that is counted."""
    with tempfile.TemporaryDirectory() as name:
        progress, report = Path(name) / "progress", Path(name) / "report.json"
        command = [sys.executable, "-m", "benchmarks.attacks.fuzz", module, str(seed), str(first), str(count)]
        with (Path(name) / "noise").open("wb") as noise:
            process = subprocess.Popen(
                [*command, str(progress), str(report)], cwd=ROOT, env={**os.environ, **ONE_THREAD},
                stdout=noise, stderr=noise,
            )  # fmt: skip
            hung = _watch(process, progress)
        noise_text = (Path(name) / "noise").read_text(encoding="utf-8", errors="replace")
        at, title = _progress(progress)
        found = json.loads(report.read_text(encoding="utf-8")) if report.exists() else {}
        if not found and at < first:
            raise SystemExit(f"The inputs of {module} do not begin:\n{noise_text[-3000:]}")
    result.inputs += at + 1 - first
    if not found:  # the counts before it are lost with the process, but not the faults
        if hung:
            result.hangs += 1
        else:
            result.crashes += 1
        result.faults = [*result.faults, f"{title}: {'hang' if hung else f'exit {process.returncode}'}"][:KEPT]
        return at + 1
    result.refused += found["refused"]
    result.tracebacks += found["tracebacks"]
    result.peak_mib = max(result.peak_mib, found["peak_mib"])
    result.faults = [*result.faults, *found["faults"]][:KEPT]
    return count if found["done"] else at + 1


def _watch(process: subprocess.Popen[bytes], progress: Path) -> bool:
    """Wait for a process to end, and kill it where an input takes too long; whether one did."""
    last, since = (-1, ""), time.monotonic()
    while process.poll() is None:
        time.sleep(0.2)
        if (now := _progress(progress)) != last:
            last, since = now, time.monotonic()
        # Before the first input it imports frameworks.
        if time.monotonic() - since > HANG_SECONDS * (1 if last[0] >= 0 else 10):
            process.kill()
            process.wait()
            return True
    return False


def _progress(path: Path) -> tuple[int, str]:
    if not path.exists():
        return -1, ""
    number, _, title = path.read_text(encoding="utf-8", errors="replace").partition(" ")
    return (int(number), title) if number.isdigit() else (-1, "")


def run_inputs(inputs: Inputs, at: Callable[[int, str], None] = lambda number, name: None) -> Fuzzed:
    """Run inputs in this process; `at` hears of each before it runs."""
    result = Fuzzed("")
    for number, (name, call) in enumerate(inputs):
        at(number, name)
        result.inputs += 1
        try:
            call()
        except PudistillError:
            result.refused += 1
        except BaseException as error:
            if isinstance(error, KeyboardInterrupt):
                raise
            result.tracebacks += 1
            if len(result.faults) < KEPT:
                result.faults.append(f"{name}: {''.join(traceback.format_exception(error)[-2:])[-600:]}")
    return result


def _worker(module: str, seed: int, first: int, count: int, progress: Path, report: Path) -> None:
    inputs: Inputs = importlib.import_module(module).inputs(seed, count)
    rest = itertools.islice(inputs, first, count)
    before = _peak_mib()
    soft = MEMORY + _address_space()
    resource.setrlimit(resource.RLIMIT_AS, (soft, resource.getrlimit(resource.RLIMIT_AS)[1]))
    line = os.open(progress, os.O_CREAT | os.O_WRONLY)

    def at(number: int, name: str) -> None:
        text = f"{first + number} {name[:100]}".encode(errors="replace")
        os.pwrite(line, text.ljust(150), 0)

    found = run_inputs(rest, at)
    content = {**found.__dict__, "peak_mib": round(_peak_mib() - before, 1), "done": True}
    report.write_text(json.dumps(content), encoding="utf-8")


def _peak_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10


def _address_space() -> int:
    """Bytes that this process has mapped."""
    pages = int(Path("/proc/self/statm").read_text().split()[0]) if Path("/proc/self/statm").exists() else 0
    return pages * resource.getpagesize()


if __name__ == "__main__":
    _worker(sys.argv[1], *(int(n) for n in sys.argv[2:5]), *(Path(p) for p in sys.argv[5:7]))
