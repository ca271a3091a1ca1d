"""What a teacher is asked, what comes back, and what every teacher can do."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, Protocol, TypeAlias

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
    """Without reasoning and end-of-turn tokens."""
    status: Status
    finish_reason: str
    """As the teacher gave it: "stop", "length", "content_filter", a name of its own; "" without an answer."""
    reasoning_stripped: bool
    """Whether the teacher reasoned, or its text held anything else that is no answer: an end-of-turn token."""
    prompt_tokens: int
    completion_tokens: int
    """Both by the teacher's own count, reasoning included; 0 where it gives none."""
    detail: str = ""
    """Why the status is what it is, where that is not plain."""

    @classmethod
    def error(cls, detail: str, prompt_tokens: int = 0) -> Answer:
        """What stands for an answer that did not come; `detail` says why."""
        return cls("", "error", "", False, prompt_tokens, 0, detail)


class Questions(Protocol):
    """Questions to be asked: each is taken when it is about to be, and may turn out to be none of ours by then."""

    def __len__(self) -> int:
        """At most so many."""
        ...

    def __iter__(self) -> Iterator[Question]: ...


class Teacher(Protocol):
    """A black box that is asked once per prompt."""

    name: str
    """For people: the model, and where it is."""
    notices: list[str]
    """What the user should know, complete once `ask` has ended: bad lines, prompts without an answer."""
    max_tokens: int | None
    """So many tokens mean that an answer was cut off, whatever its reason; None where the reason can be relied on."""
    rereadable: bool
    """Whether the answers lie there to be read again at no cost: then they are not cached."""

    def identity(self) -> str:
        """Stable JSON of kind, model and parameters: what answers are cached by. Never holds a key."""
        ...

    def ask(self, questions: Questions) -> Iterator[tuple[Question, Answer]]:
        """Yield answers as they arrive, in any order. A prompt that failed is an answer of status "error".

        A question is taken from `questions` only when it is asked. What the limits of one command allow is counted
        over all calls.

        Raises:
            TeacherError: the teacher cannot be asked (any further), or a limit was reached. All answers that
                came before were yielded.
        """
        ...
