"""What is faster on this machine, found by trying: candidates are timed in turns, and a tie goes to the first."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from statistics import median
from typing import TypeVar

from pudistill_cli.backend_api import cpu

T = TypeVar("T")

SMALL = 32 << 20
"""Bytes of weights below which nothing is tried: threads wait for each other longer than they work, and a trial would
take longer than it could save."""
TIE = 1.1
"""A candidate that takes at most so many times as long as the fastest is as good: other load moves times by as much."""
REPEATS = 5
SECONDS = 0.4
"""Spent on a candidate, after which it is not tried again; once it is in any case."""


def thread_counts() -> tuple[int, ...]:
    """The numbers of threads worth trying: one, half of them and all that this process may use.

    Half is a thread for each core where a core offers two. `OMP_NUM_THREADS` in the environment is an upper bound.
    """
    given = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0].strip()
    most = min(cpu.cores(), int(given)) if given.isdigit() and int(given) else cpu.cores()
    return tuple(sorted({1, max(1, most // 2), most}))


def times_of(
    trials: Mapping[T, Callable[[], object]], clock: Callable[[], float] = time.perf_counter
) -> dict[T, float]:
    """Median seconds of each trial, by the clock: what other programs take from a candidate counts.

    They are made in turns, so that a moment of other load meets all of them. A first turn, not counted, warms up.
    """
    seconds: dict[T, list[float]] = {name: [] for name in trials}
    for trial in trials.values():
        trial()
    for _ in range(REPEATS):
        for name, trial in trials.items():
            if sum(seconds[name]) < SECONDS:
                started = clock()
                trial()
                seconds[name].append(clock() - started)
    return {name: median(values) for name, values in seconds.items()}


def first_of_fastest(seconds: Mapping[T, float], order: Sequence[T]) -> T:
    """The first in `order` that is not slower than the fastest of them by more than a tie."""
    fastest = min(seconds[name] for name in order)
    return next(name for name in order if seconds[name] <= TIE * fastest)
