"""Cases run in processes of their own, since a library may end its process, or never come back."""

from __future__ import annotations

import os
import resource
import shutil
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path

from pudistill_cli.errors import PudistillError

Run = Callable[[Path], None]
READ, REFUSED, TRACEBACK, HANG, CRASH = "read", "refused", "traceback", "hang", "crash"
LIMIT = 20.0
"""Seconds after which a case counts as a hang."""
MEMORY = 6 << 30
"""Bytes of address space beyond what the libraries take; who wants more gets a MemoryError, or crashes."""


@dataclass
class Tally:
    """What came of the cases."""

    outcomes: Counter[str] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)
    """Of tracebacks, hangs and crashes: the case, and the end of what it said."""
    slowest: tuple[float, str] = (0.0, "")
    peak_mib: int = 0
    seconds: float = 0.0

    @property
    def sound(self) -> bool:
        """Whether every case was read or refused."""
        return not self.failures


def outcome_of(run: Run, scratch: Path) -> tuple[str, str]:
    """(outcome, the message of an error)."""
    try:
        run(scratch)
    except PudistillError as error:
        if not error.message or not error.hint or "\n" in error.message.strip():
            return TRACEBACK, f"not one sentence with a hint: {error.message!r} {error.hint!r}"
        return REFUSED, error.message
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # noqa: BLE001 - this is what is looked for
        return TRACEBACK, "".join(traceback.format_exception(error)[-4:])
    return READ, ""


def run_cases(
    seed: int, first: int, count: int, scratch: Path, limit: float = LIMIT, said: Callable[[str], None] = print
) -> Tally:
    """Run cases one after another in a child that is made again when it dies or hangs."""
    tally, began, number, last = Tally(), time.monotonic(), first, first + count
    while number < last:
        number = _until_it_ends(seed, number, last, scratch, limit, tally, said)
    tally.seconds = time.monotonic() - began
    return tally


def _until_it_ends(
    seed: int, number: int, last: int, scratch: Path, limit: float, tally: Tally, said: Callable[[str], None]
) -> int:
    context = get_context("spawn")
    ours, theirs = context.Pipe()
    log = scratch / f"worker-{number}.log"
    child = context.Process(target=_work, args=(theirs, seed, number, last, scratch, log), daemon=True)
    child.start()
    theirs.close()
    name, started = "", time.monotonic()
    try:
        while number < last:
            # The first case of a child waits for its libraries.
            if not ours.poll(limit + (120 if not name else 0)):
                tally.outcomes[HANG] += 1
                tally.failures.append(f"HANG {name}")
                said(tally.failures[-1])
                return number + 1
            try:
                message = ours.recv()
            except EOFError:
                child.join(5)
                tally.outcomes[CRASH] += 1
                end = log.read_text("utf-8", "replace")[-600:] if log.exists() else ""
                tally.failures.append(f"CRASH {child.exitcode} {name}\n{end}")
                said(tally.failures[-1])
                return number + 1
            if message[0] == "begin":
                name, started = message[1], time.monotonic()
                continue
            _, outcome, detail, peak = message
            seconds = time.monotonic() - started
            tally.slowest = max(tally.slowest, (seconds, name))
            tally.peak_mib = max(tally.peak_mib, peak)
            tally.outcomes[outcome] += 1
            if outcome == TRACEBACK:
                tally.failures.append(f"TRACEBACK {name}\n{detail}")
                said(tally.failures[-1])
            number += 1
        return number
    finally:
        child.kill()
        child.join()
        ours.close()
        with suppress(OSError):
            log.unlink()


def _work(pipe: Connection, seed: int, first: int, last: int, scratch: Path, log: Path) -> None:
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    sys.setrecursionlimit(1000)
    own = scratch / f"work-{os.getpid()}"
    cache = own / "cache"  # what the product keeps of a model that it can read
    cache.mkdir(parents=True)
    os.environ["PUDISTILL_CACHE"] = str(cache)
    os.environ["FUZZING_SEEDS"] = str(scratch / "seeds")
    from benchmarks.fuzzing.model_files import case, warm_up

    warm_up()
    with open("/proc/self/statm", encoding="ascii") as file:
        held = int(file.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (held + MEMORY, held + MEMORY))
    try:
        for number in range(first, last):
            made = case(seed, number)
            pipe.send(("begin", made.name))
            os.ftruncate(descriptor, 0)
            outcome, detail = outcome_of(made.run, own)
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10
            pipe.send(("end", outcome, detail, peak))
            if number % 100 == 99:
                shutil.rmtree(cache, ignore_errors=True)
    finally:
        shutil.rmtree(own, ignore_errors=True)
