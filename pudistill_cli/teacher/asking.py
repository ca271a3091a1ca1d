"""Ask a teacher for many answers: those in the cache first, then the rest, each question by one run at a time."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass

from pudistill_cli.errors import TeacherError
from pudistill_cli.files.input_lines import counted
from pudistill_cli.teacher.answers import Answer, Question, Questions, Teacher
from pudistill_cli.teacher.cache import AnswerCache, content_key
from pudistill_cli.teacher.cleaning import clean_again
from pudistill_cli.terminal.console import Console
from pudistill_cli.terminal.progress import Bar
from pudistill_cli.types import Message

POLL = 0.5
"""Seconds between two looks at what another run is asking for."""
_WAITED_FOR = "waiting for another run"


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
    *,
    on_wait: Callable[[int], None] = lambda waiting: None,
    tell: Callable[[str], None] = lambda notice: None,
) -> dict[str, Answer]:
    """Answers by key: from the cache, then from the teacher, each cached before `on_answer` sees it.

    Of several runs that need the same answers, each question is asked by one, and the others wait for it: `on_wait`
    hears for how many. A run that ended while it asked leaves its questions to the others, which `tell` hears of.

    The teacher is not touched when the cache has everything: then no network and no key is needed. A file's answers
    pass the cache by: a synced commit each, for thousands, would take a disk longer than the file takes to read.

    Raises:
        TeacherError: as `Teacher.ask`; the answers before it are in the cache and were given to `on_answer`.
    """
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

    def keep(question: Question, answer: Answer) -> None:
        answers[question.key] = answer
        missing.pop(question.key, None)
        on_answer(question, answer)

    if missing and teacher.rereadable:
        _ask(teacher, tuple(missing.values()), keep)
    elif missing:
        _Shared(teacher, cache, missing, keep, tell).ask(on_wait)
    return answers


def shown_waiting(console: Console, bar: Bar) -> Callable[[int], None]:
    """For `on_wait`: says once that another run is waited for, and shows beside the bar for how many answers."""
    said = False

    def show(waiting: int) -> None:
        nonlocal said
        if waiting and not said:
            said = True
            console.say(f"Another run is asking for {counted(waiting, 'answer')} that this one needs too: it waits.")
        if waiting:
            bar.note(**{_WAITED_FOR: str(waiting)})
        elif bar.notes.pop(_WAITED_FOR, None):
            bar.changed(bar)

    return show


def _ask(teacher: Teacher, questions: Questions, keep: Callable[[Question, Answer], None]) -> None:
    arriving = teacher.ask(questions)
    try:
        for question, answer in arriving:
            keep(question, answer)
    finally:
        # Ctrl-C, a full disk: connections are closed now, not when the last traceback is dropped.
        if isinstance(arriving, Generator):
            arriving.close()


@dataclass(frozen=True, slots=True)
class _Claimed:
    """Questions of which each is claimed when it is about to be asked; those that cannot be are passed over."""

    questions: Sequence[Question]
    claim: Callable[[Question], bool]

    def __len__(self) -> int:
        return len(self.questions)

    def __iter__(self) -> Iterator[Question]:
        return filter(self.claim, self.questions)


class _Shared:
    """Questions that other runs may be asking too: `missing` by key, from which `keep` takes what is answered."""

    def __init__(
        self,
        teacher: Teacher,
        cache: AnswerCache,
        missing: dict[str, Question],
        keep: Callable[[Question, Answer], None],
        tell: Callable[[str], None],
    ) -> None:
        self._teacher = teacher
        self._cache = cache
        self._claims = cache.claims
        self._missing = missing
        self._keep = keep
        self._tell = tell
        self._identity = teacher.identity()
        self._elsewhere: list[Question] = []
        """What other runs are asking, or have asked."""
        self._claimed = 0
        self._looked = time.monotonic()

    def ask(self, on_wait: Callable[[int], None]) -> None:
        """Ask what no other run is asking, and wait for the rest, until nothing is missing."""
        try:
            while self._missing:
                keys = {content_key(self._identity, q.messages): q for q in self._missing.values()}
                if abandoned := self._claims.free_abandoned(keys):
                    on_their_way = "question was on its way" if abandoned == 1 else "questions were on their way"
                    self._tell(f"{abandoned:,} {on_their_way} when another run was killed or stood still: asked again.")
                taken = self._claims.of_others(keys)
                self._elsewhere = [question for key, question in keys.items() if key in taken]
                free = [question for key, question in keys.items() if key not in taken]
                if free:
                    self._ask(free)
                self._take_from_cache()
                on_wait(len(self._missing))
                if self._missing and not free:
                    time.sleep(POLL)
        finally:
            self._claims.close()

    def _ask(self, free: Sequence[Question]) -> None:
        missing, self._claimed = len(self._missing), 0
        _ask(self._teacher, _Claimed(free, self._claim), self._arrived)
        if self._claimed and len(self._missing) == missing:  # asked again, it would be paid for without an end
            raise TeacherError(
                f"{self._teacher.name} gave no answer to {counted(self._claimed, 'question')}, and no reason.",
                "Please report this. The answers so far are kept.",
            )

    def _claim(self, question: Question) -> bool:
        """Whether the question is this run's to ask, now."""
        key = content_key(self._identity, question.messages)
        if not self._claims.take(key):
            self._elsewhere.append(question)
            return False
        if cached_answer(self._teacher, self._cache, question.messages) is not None:  # another run's, of late
            self._claims.release(key)
            self._elsewhere.append(question)
            return False
        if self._cache.get(self._identity, question.messages) is not None:  # one that broke off
            self._cache.drop(self._identity, question.messages)
        self._claimed += 1
        return True

    def _arrived(self, question: Question, answer: Answer) -> None:
        if not self._cache.put(self._identity, question.messages, answer) and answer.status != "error":
            answer = cached_answer(self._teacher, self._cache, question.messages) or answer
        self._keep(question, answer)
        if time.monotonic() - self._looked >= POLL:
            self._take_from_cache()

    def _take_from_cache(self) -> None:
        """Take what other runs have got meanwhile."""
        for question in self._elsewhere:
            if question.key in self._missing:
                answer = cached_answer(self._teacher, self._cache, question.messages)
                if answer is not None:
                    self._keep(question, answer)
        self._looked = time.monotonic()
