"""How often a teacher is asked what it was asked before: by commands at the same time, and after kills."""

from __future__ import annotations

import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

import yaml

from benchmarks.attacks.small_run import QUICKSTART, Ended, ended, kill, start
from benchmarks.attacks.teacher import CountingTeacher

PROMPTS = 200
CONCURRENCY = 4
KILLS = 5
TOKENS = 5_000
"""The limit of the run that has one: some 60 answers."""
LONGEST = 60


@dataclass(frozen=True)
class Asked:
    """What the teacher was asked in one attack."""

    attack: str
    prompts: int
    """Questions there are."""
    requests: int
    repeated: int
    allowed: int
    """Questions that were on their way when a process was killed: at most its concurrency each time."""
    tracebacks: int
    hangs: int
    unfinished: int
    """Commands that should have ended well and did not, and limits that were exceeded."""


def count_questions(folder: Path) -> list[Asked]:
    """Every attack, each with a cache of its own."""
    return [
        at_once(folder / "at-once", 3, killed=0),
        at_once(folder / "one-killed", 3, killed=1),
        again_and_again(folder / "again"),
        within_limit(folder / "limit"),
    ]


def at_once(folder: Path, count: int, killed: int, prompts: int = PROMPTS) -> Asked:
    """Some commands at the same time, of which some are killed in the middle."""
    with CountingTeacher() as teacher:
        _recipe(folder, teacher, prompts)
        processes = [_anchors(folder, f"answers-{i}.jsonl") for i in range(count)]
        if killed:
            _wait_for(teacher, prompts // 3, processes)
            for process in processes[:killed]:
                kill(process)
        ends = [ended(process) for process in processes][killed:]
        return _asked(f"{count} commands at once" + f", {killed} killed" * bool(killed), teacher, ends, killed, prompts)


def again_and_again(folder: Path) -> Asked:
    """One command, killed and typed again."""
    with CountingTeacher() as teacher:
        _recipe(folder, teacher)
        for i in range(KILLS):
            process = _anchors(folder, "answers.jsonl")
            _wait_for(teacher, (i + 1) * PROMPTS // (KILLS + 1), [process])
            kill(process)
            process.communicate()
        return _asked(f"killed {KILLS} times", teacher, [ended(_anchors(folder, "answers.jsonl"))], KILLS)


def within_limit(folder: Path) -> Asked:
    """A limit on tokens, and answers that are as long as they may be."""
    with CountingTeacher(longest=LONGEST) as teacher:
        _recipe(folder, teacher, max_tokens=LONGEST, max_tokens_total=TOKENS)
        end = ended(_anchors(folder, "answers.jsonl"))
        exceeded = int(teacher.tokens > TOKENS)
        asked = _asked(f"limit of {TOKENS:,} tokens, {teacher.tokens:,} used", teacher, [], 0)
        return Asked(**{**asked.__dict__, "unfinished": exceeded, "tracebacks": int(end.has_traceback)})


def _recipe(folder: Path, teacher: CountingTeacher, prompts: int = PROMPTS, **settings: object) -> None:
    folder.mkdir(parents=True)
    lines = (QUICKSTART / "prompts.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
    (folder / "train.jsonl").write_text("".join(lines[:prompts]), encoding="utf-8")
    recipe = {
        "name": "questions",
        "student": {"model": str(QUICKSTART / "student")},
        "teacher": teacher.settings(CONCURRENCY, **settings),
        "prompts": {"path": "train.jsonl", "dev_share": 0.1, "test_share": 0.1},
        "eval": {"metric": "none"},
    }
    (folder / "questions.yaml").write_text(yaml.safe_dump(recipe, sort_keys=False), encoding="utf-8")


def _anchors(folder: Path, out: str) -> subprocess.Popen[str]:
    return start("anchors", "questions.yaml", "--out", out, folder=folder)


def _wait_for(teacher: CountingTeacher, count: int, processes: list[subprocess.Popen[str]]) -> None:
    """Until the teacher was asked so many different questions, or nobody is left to ask."""
    while len(set(teacher.asked)) < count and any(p.poll() is None for p in processes):
        time.sleep(0.005)


def _asked(attack: str, teacher: CountingTeacher, ends: list[Ended], kills: int, prompts: int = PROMPTS) -> Asked:
    return Asked(
        attack,
        prompts,
        len(teacher.asked),
        teacher.repeated,
        kills * CONCURRENCY,
        sum(end.has_traceback for end in ends),
        sum(end.code == -9 for end in ends),
        sum(end.code != 0 for end in ends),
    )
