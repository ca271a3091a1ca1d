"""The tasks: fresh prompts with a known truth, a teacher, and a student that is competent.

A task is a module with `NAME`, `ABOUT`, `problem()` (why it cannot run here, or None) and `write(folder, seed)`, which
puts `recipe.yaml`, the prompts with the truth as `reference`, and the teacher's answers into a folder. Training prompts
and anchors are the seed's own; dev, test and `other` (out of template) are the same for every seed.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Protocol

from benchmarks.evidence.tasks import action, note, story
from pudistill_cli.allowed_code import AllowedCode

OUR_CODE = AllowedCode(of_recipe=True)
"""Two of the tasks grade with a module of this repository."""


class Task(Protocol):
    """What a task's module offers."""

    NAME: str
    ABOUT: str

    def problem(self) -> str | None:
        """Why the task cannot run here."""
        ...

    def write(self, folder: Path, seed: int) -> None:
        """Write the recipe and its files; the same bytes for the same seed."""
        ...


TASKS: dict[str, Task] = {task.NAME: task for task in (action, note, story)}


def able(names: Iterable[str]) -> list[str]:
    """The tasks that can run here; says why the others cannot."""
    problems = {name: TASKS[name].problem() for name in names}
    for name, problem in problems.items():
        if problem is not None:
            print(f"{name} is left out: {problem}")
    return [name for name, problem in problems.items() if problem is None]
