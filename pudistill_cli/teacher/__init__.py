"""Teachers: what is asked, what comes back, and how: cache first, every answer kept as it arrives."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol, TypeAlias

if TYPE_CHECKING:
    from pudistill_cli.config.teacher import LocalTeacher, TeacherSettings
    from pudistill_cli.teacher.cache import AnswerCache
    from pudistill_cli.types import Message

Status: TypeAlias = Literal["ok", "refused", "empty", "truncated", "error"]


@dataclass(frozen=True, slots=True)
class Question:
    """One prompt for the teacher; `key` is the prompt's content hash."""

    key: str
    messages: tuple[Message, ...]


@dataclass(frozen=True, slots=True)
class Answer:
    """The teacher's one answer to a prompt. Only status "ok" is trained on; the others are counted."""

    text: str
    """Without reasoning."""
    status: Status
    finish_reason: str
    """As the teacher gave it: "stop", "length", "content_filter", a name of its own; "" without an answer."""
    reasoning_stripped: bool
    prompt_tokens: int
    completion_tokens: int
    """Both by the teacher's own count, reasoning included; 0 where it gives none."""
    detail: str = ""
    """Why the status is what it is, where that is not plain."""


class Teacher(Protocol):
    """A black box that is asked once per prompt."""

    name: str
    """For people: the model, and where it is."""
    notices: list[str]
    """What the user should know, complete once `ask` has ended: bad lines, prompts without an answer."""
    rereadable: bool
    """Whether the answers lie there to be read again at no cost: then they are not cached."""

    def identity(self) -> str:
        """Stable JSON of kind, model and parameters: what answers are cached by. Never holds a key."""
        ...

    def ask(self, questions: Sequence[Question]) -> Iterator[tuple[Question, Answer]]:
        """Yield answers as they arrive, in any order. A prompt that failed is an answer of status "error".

        Raises:
            TeacherError: the teacher cannot be asked (any further), or a limit was reached. All answers that
                came before were yielded.
        """
        ...


def open_teacher(settings: TeacherSettings, *, folder: Path, open_local: Callable[[LocalTeacher], Teacher]) -> Teacher:
    """Build the recipe's teacher. No request is sent and no key is read before `ask`.

    A relative `path` is taken from `folder`; `open_local` loads a local teacher's model, which takes a backend.

    Raises:
        DataError: the file of answers is missing or has lines that are no answers.
    """
    match settings.kind:
        case "file":
            from pudistill_cli.teacher.file import AnswerFile

            return AnswerFile(folder / settings.path, settings.on_bad_line)
        case "openai":
            from pudistill_cli.teacher.endpoint import Endpoint

            return Endpoint(settings)
        case "local":
            return open_local(settings)


def ask_all(
    teacher: Teacher,
    questions: Sequence[Question],
    cache: AnswerCache,
    on_answer: Callable[[Question, Answer], None],
) -> dict[str, Answer]:
    """Answers by key: from the cache, then from the teacher, each cached before `on_answer` sees it.

    The teacher is not touched when the cache has everything: then no network and no key is needed. A file's answers
    pass the cache by: a synced commit each, for thousands, would take a disk longer than the file takes to read.

    Raises:
        TeacherError: as `Teacher.ask`; the answers before it are in the cache and were given to `on_answer`.
    """
    identity = teacher.identity()
    answers: dict[str, Answer] = {}
    missing: dict[str, Question] = {}
    for question in questions:
        if question.key in answers or question.key in missing:
            continue
        answer = None if teacher.rereadable else cache.get(identity, question.messages)
        if answer is None:
            missing[question.key] = question
        else:
            answers[question.key] = answer
            on_answer(question, answer)
    if not missing:
        return answers
    arriving = teacher.ask(tuple(missing.values()))
    try:
        for question, answer in arriving:
            if not teacher.rereadable:
                cache.put(identity, question.messages, answer)
            answers[question.key] = answer
            on_answer(question, answer)
    finally:
        # Ctrl-C, a full disk: connections are closed now, not when the last traceback is dropped.
        if isinstance(arriving, Generator):
            arriving.close()
    return answers
