"""Ask a teacher for many answers: those in the cache first, then the rest, each kept as it arrives."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence

from pudistill_cli.teacher.answers import Answer, Question, Teacher
from pudistill_cli.teacher.cache import AnswerCache
from pudistill_cli.teacher.cleaning import clean_again
from pudistill_cli.types import Message


def cached_answer(teacher: Teacher, cache: AnswerCache, messages: Sequence[Message]) -> Answer | None:
    """The answer that was kept, read by the rules of today; None where by them it is to be asked again."""
    kept = cache.get(teacher.identity(), messages)
    if kept is None:
        return None
    answer = clean_again(kept, teacher.max_tokens)
    return None if answer.status == "error" else answer


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
        answer = None if teacher.rereadable else cached_answer(teacher, cache, question.messages)
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
