"""What a run's answers come from, by content: a file of answers may be moved, and one that was changed is noticed."""

from __future__ import annotations

from contextlib import closing
from hashlib import blake2b
from pathlib import Path

from pudistill_cli.config.teacher import FileTeacher, LocalTeacher, TeacherSettings
from pudistill_cli.files.file_sums import file_sum
from pudistill_cli.files.input_lines import counted, listed
from pudistill_cli.models.packaged import local_model
from pudistill_cli.models.student import checkpoint_fingerprint
from pudistill_cli.prompts import Prompt, PromptSets
from pudistill_cli.run.ledger import Ledger
from pudistill_cli.teacher.file import AnswerFile

KEY = "teacher.fingerprint"
"""In a run's identity; where one side has none, there is nothing to compare."""
_SHOWN = 5
"""Prompts with other answers that one message names."""


def teacher_content(settings: TeacherSettings, prompts: PromptSets) -> dict[str, str]:
    """Its part of a run's identity: the answers to the run's prompts, or a local model's files.

    Empty for a teacher elsewhere, and where nothing lies at the path (any more): a run that has its answers needs none.

    Raises:
        DataError: the file cannot be read as answers.
    """
    if isinstance(settings, FileTeacher):
        if not Path(settings.path).is_file():
            return {}
        answers = _answers(settings, prompts)
        content = "".join(sorted(f"{key} {told!r}\n" for key, told in answers.items()))
        return {KEY: blake2b(content.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()}
    if isinstance(settings, LocalTeacher) and (path := model_path(settings)) is not None:
        return {KEY: file_sum(path) if path.is_file() else checkpoint_fingerprint(path)}
    return {}


def model_path(settings: LocalTeacher) -> Path | None:
    """Where a local teacher lies; None for one that is named by its address on a hub, and for one that is gone."""
    path = Path(local_model(settings.model)).expanduser()
    return path if path.exists() else None


def other_answers(settings: TeacherSettings, prompts: PromptSets, ledger_path: Path) -> list[Prompt]:
    """The prompts to which the file of answers has another one than the run took from it."""
    if not (isinstance(settings, FileTeacher) and Path(settings.path).is_file() and ledger_path.is_file()):
        return []
    with closing(Ledger(ledger_path)) as ledger:
        held = ledger.anchors()
    now = _answers(settings, prompts)
    took = {key: None if answer.status == "error" else (answer.text, answer.status) for key, answer in held.items()}
    return [p for p in prompts.asked if p.key in took and took[p.key] != now[p.key]]


def what_changed(settings: TeacherSettings, changed: list[Prompt]) -> str:
    """A sentence that names them."""
    places = listed([f"{p.source}:{p.line}" for p in changed], ", ", _SHOWN)
    return (
        f"{getattr(settings, 'path', '')} has changed since the run took its answers from it: it has others, or none, "
        f"to {counted(len(changed), 'prompt')} ({places})."
    )


def _answers(settings: FileTeacher, prompts: PromptSets) -> dict[str, tuple[str, str] | None]:
    """By prompt, the text of the file's answer and its status; None where it has none."""
    file = AnswerFile(Path(settings.path), settings.on_bad_line)
    answers = {p.key: file.answer_to(p.messages) for p in prompts.asked}
    return {key: None if answer is None else (answer.text, answer.status) for key, answer in answers.items()}
