"""The teacher's answers that a bundle carries: all of them, as a file of answers, so that no question is left."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pudistill_cli.config.teacher import FileTeacher, LocalTeacher, TeacherSettings
from pudistill_cli.errors import DataError
from pudistill_cli.files.cache_dir import cache_path
from pudistill_cli.files.input_lines import counted, listed
from pudistill_cli.prompts import Prompt, PromptSets
from pudistill_cli.teacher.answers import Answer, Question, Teacher
from pudistill_cli.teacher.cache import AnswerCache
from pudistill_cli.teacher.cleaning import clean, clean_again
from pudistill_cli.teacher.file import answer_line
from pudistill_cli.teacher.opening import open_teacher

_SHOWN = 3
_REASONS = {"ok": "stop", "empty": "stop", "refused": "content_filter", "truncated": "length"}
"""The finish reason by which a file's answer is read with this status."""


def anchors_file(settings: TeacherSettings, prompts: PromptSets, ask: str) -> bytes | None:
    """Every answer as a line of JSON; None where a local teacher has not given them all, and is to be packed itself.

    Answers that are not trained on (refused, cut off, empty) are carried too: a run from the bundle counts the same.
    `ask` is the command that asks for what is missing.

    Raises:
        DataError: some are missing.
    """
    if isinstance(settings, LocalTeacher):
        answers = _local_answers(settings, prompts.asked)
        if answers is None or len(answers) < len(prompts.asked):
            return None
    elif isinstance(settings, FileTeacher):
        answers = _read_answers(settings, prompts)
    else:
        teacher = open_teacher(settings, folder=Path.cwd(), open_local=_not_local)
        answers = _cached_answers(teacher.identity(), teacher.max_tokens, prompts.asked)
        if missing := [p for p in prompts.asked if p.key not in answers]:
            raise DataError(
                f"{len(missing):,} of {counted(len(prompts.asked), 'prompt')} have no answer of the teacher yet, and "
                "a bundle holds them all.",
                f"Ask for them first: {ask}",
            )
    asked = (prompt for prompt in prompts.asked if prompt.key in answers)
    return "".join(_line(prompt, answers[prompt.key]) + "\n" for prompt in asked).encode()


def _read_answers(settings: FileTeacher, prompts: PromptSets) -> dict[str, Answer]:
    """Those of a file; held-out prompts that have a reference can do without."""
    teacher = open_teacher(settings, folder=Path.cwd(), open_local=_not_local)
    given = teacher.ask([Question(p.key, p.messages) for p in prompts.asked])
    answers = {question.key: answer for question, answer in given if answer.status != "error"}
    trained = {p.key for p in prompts.train}
    missing = [p for p in prompts.asked if p.key not in answers and (p.key in trained or p.reference is None)]
    if missing:
        where = listed([f"{p.source}:{p.line}" for p in missing], ", ", _SHOWN)
        raise DataError(
            f"{settings.path} has no answer to {len(missing):,} of {counted(len(prompts.asked), 'prompt')} ({where}), "
            "and a bundle holds them all.",
            "Add the answers to that file, or take these prompts out.",
        )
    return answers


def _local_answers(settings: LocalTeacher, prompts: Sequence[Prompt]) -> dict[str, Answer] | None:
    """Those that a model on this machine has given before; it is not loaded."""
    from pudistill_cli.teacher.local import identity_of

    return _cached_answers(identity_of(settings), None, prompts) if _cache_file().is_file() else None


def _cached_answers(identity: str, max_tokens: int | None, prompts: Sequence[Prompt]) -> dict[str, Answer]:
    """Those that were kept, read by the rules of today, as `cached_answer` does with a teacher that is open."""
    if not _cache_file().is_file():
        return {}
    with AnswerCache(_cache_file()) as cache:
        kept = {p.key: answer for p in prompts if (answer := cache.get(identity, p.messages)) is not None}
    answers = {key: clean_again(answer, max_tokens) for key, answer in kept.items()}
    return {key: answer for key, answer in answers.items() if answer.status != "error"}


def _line(prompt: Prompt, answer: Answer) -> str:
    """A line that is read again as this very answer."""
    for reason in (answer.finish_reason, _REASONS[answer.status]):
        text = "" if answer.status == "empty" else answer.text
        again = clean(text, reason)
        if (again.status, again.text) == (answer.status, text):
            return answer_line(prompt.messages, Answer(text, answer.status, reason, False, 0, 0))
    raise DataError(
        f"The answer to {prompt.source}:{prompt.line} cannot be carried: what is left of it without its reasoning "
        "still reads as reasoning.",
        "Take this prompt out.",
    )


def _cache_file() -> Path:
    return cache_path() / "anchors.sqlite"


def _not_local(settings: LocalTeacher) -> Teacher:
    raise AssertionError("a local teacher is not opened here")
