"""SIGKILL at moments spread over a whole run, on every backend: what it ends with is what a quiet run ends with."""

from __future__ import annotations

import random
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

from benchmarks.attacks.small_run import SmallRun, SmallRunAt, ended, kill, timed_events
from benchmarks.attacks.teacher import CountingTeacher

CONCURRENCY = 4
REACTION = 0.5
"""Share of the time between two events that passes at most before the kill: the second may come early."""


@dataclass
class Kills:
    """What came of the kills on one backend."""

    backend: str
    kills: int = 0
    survived: int = 0
    stages: set[str] = field(default_factory=set)
    """What was under way at the kills."""
    differing: list[str] = field(default_factory=list)
    """What differed from the quiet run's: where it was killed, and the file or table."""
    tracebacks: int = 0
    hangs: int = 0
    repeated: int = 0
    """Questions that the teacher got again: they were on their way when the run was killed."""
    repeated_otherwise: int = 0
    """Questions that it got again beside those."""


@dataclass(frozen=True)
class Moment:
    """When to kill: so many events after the start, and a little later."""

    events: int
    seconds: float
    stage: str


def kill_everywhere(folder: Path, backend: str, count: int, seed: int) -> Kills:
    """A quiet run, then `count` runs that are killed once each and go on; each in a folder of its own."""
    result = Kills(backend)
    with CountingTeacher() as teacher:
        recipe = SmallRun.make(folder / backend, backend, teacher.settings(CONCURRENCY))
        events = _watched(recipe.run)
        quiet = recipe.run.put_aside("quiet")
        asked = len(teacher.asked)
        for moment in _moments(events, count, random.Random(seed)):
            shutil.rmtree(recipe.folder / "cache", ignore_errors=True)
            teacher.forget()
            _kill_once(recipe.run, quiet, moment, result)
            again = len(teacher.asked) - asked
            result.repeated += min(again, CONCURRENCY)
            result.repeated_otherwise += max(0, again - CONCURRENCY)
    return result


def _watched(run: SmallRunAt) -> list[tuple[float, dict[str, Any]]]:
    """The events of a run that ends well, with their times."""
    process = run.start()
    events = list(timed_events(process))
    over = ended(process)
    if over.code:
        raise SystemExit(f"The quiet run on {run.recipe.backend} ended with {over.code}:\n{events[-1]}\n{over.err}")
    return events


def _moments(events: list[tuple[float, dict[str, Any]]], count: int, rng: random.Random) -> Iterator[Moment]:
    """Events spread evenly over the run's, each with a moment before the next one comes."""
    stage = "start"
    stages: list[str] = []
    for _, event in events:
        stage = _stage(event["stage"]) if event["event"] == "started" else stage
        stages.append(stage)
    gaps = [later - earlier for (earlier, _), (later, _) in pairwise(events)]
    for i in range(count):
        at = min(int((i + rng.random()) * len(gaps) / count), len(gaps) - 1)
        yield Moment(at + 1, REACTION * rng.random() * gaps[at], stages[at])


def _stage(title: str) -> str:
    """A stage's title without what is counted in it: `round 2: sampling` is `round: sampling`."""
    first, _, rest = title.partition(": ")
    return ": ".join(part for part in (first.split()[0], rest.split()[0] if rest else "") if part)


def _kill_once(run: SmallRunAt, quiet: SmallRunAt, moment: Moment, result: Kills) -> None:
    process = run.start()
    for number, _ in enumerate(timed_events(process), 1):
        if number == moment.events:
            time.sleep(moment.seconds)
            kill(process)
            break
    process.communicate()
    result.kills += 1
    result.stages.add(moment.stage)
    over = run.finish()
    result.hangs += over.code == -9
    result.tracebacks += over.has_traceback
    expected, found = quiet.contents(), run.contents() if not over.code else {}
    differing = sorted(name for name in expected | found if expected.get(name) != found.get(name))
    result.differing += [f"{moment.stage} ({moment.events} events): {name}" for name in differing]
    result.survived += not differing
    shutil.rmtree(run.runs)
