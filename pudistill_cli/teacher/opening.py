"""From a recipe's teacher section to the teacher that answers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from pudistill_cli.config.teacher import LocalTeacher, TeacherSettings
from pudistill_cli.teacher.answers import Teacher
from pudistill_cli.teacher.file import AnswerFile


def open_teacher(settings: TeacherSettings, *, folder: Path, open_local: Callable[[LocalTeacher], Teacher]) -> Teacher:
    """Build the recipe's teacher. No request is sent and no key is read before `ask`.

    A relative `path` is taken from `folder`; `open_local` loads a local teacher's model, which takes a backend.

    Raises:
        DataError: the file of answers is missing or has lines that are no answers.
    """
    match settings.kind:
        case "file":
            return AnswerFile(folder / settings.path, settings.on_bad_line)
        case "openai":
            from pudistill_cli.teacher.endpoint import Endpoint  # its HTTP client is imported where one is needed

            return Endpoint(settings)
        case "local":
            return open_local(settings)
