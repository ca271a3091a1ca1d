"""The recipe's limits on calls, tokens and cost: what a request may use is set aside before it is sent."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil

from pudistill_cli.config.teacher import EndpointTeacher
from pudistill_cli.errors import TeacherError
from pudistill_cli.teacher.answers import Answer, Question

BYTES_PER_TOKEN = 3
"""For endpoints that report no usage (ours). English is nearer to 4: a limit comes early rather than late."""
TOKENS_PER_MESSAGE = 8
"""What a chat template writes around a message, at most (ours); more is learned from the usage that is reported."""
_ROUNDING = 1e-9


@dataclass(frozen=True, slots=True)
class Use:
    """Tokens of prompts and of answers, and what they cost."""

    prompt: int = 0
    completion: int = 0
    cost: float = 0.0

    @property
    def tokens(self) -> int:
        """Both together."""
        return self.prompt + self.completion

    def __add__(self, other: Use) -> Use:
        return Use(self.prompt + other.prompt, self.completion + other.completion, self.cost + other.cost)


class Budget:
    """What one command has used, and what the requests on their way may use; together they stay within the limits.

    An endpoint that goes beyond `max_tokens` for an answer is believed from then on. What a request used that ended
    without a word on it, such as one that was given up, counts in full: it may be charged for.
    """

    def __init__(self, settings: EndpointTeacher) -> None:
        self._settings = settings
        self.calls = 0
        self.used = Use()
        self._held: list[Use] = []
        self._longest = settings.max_tokens
        self._excess = 0

    @property
    def in_flight(self) -> int:
        """Requests on their way, which may give something back."""
        return len(self._held)

    def most(self, question: Question | None = None) -> Use:
        """What a question can use at most; None is the shortest that there could be."""
        return self._priced(self._prompt_bound(question) + self._excess, self._longest)

    def lacking(self, question: Question | None = None) -> str | None:
        """The first limit in which the question has no place, with its value; None where it may be sent."""
        s, most = self._settings, self.most(question)
        taken = sum(self._held, self.used) + most
        if s.max_calls is not None and self.calls >= s.max_calls:
            return f"max_calls ({s.max_calls:,})"
        if s.max_tokens_total is not None and taken.tokens > s.max_tokens_total:
            return f"max_tokens_total ({s.max_tokens_total:,})"
        if s.max_cost is not None and taken.cost > s.max_cost * (1 + _ROUNDING):
            return f"max_cost ({s.max_cost:g})"
        return None

    def check(self, questions: Sequence[Question]) -> None:
        """See that the limits hold at least one of the questions.

        Raises:
            TeacherError: they hold none.
        """
        lacking = [self.lacking(question) for question in questions]
        if questions and all(lacking):
            least = min((self.most(question) for question in questions), key=lambda use: (use.cost, use.tokens))
            cost = f" at a cost of {least.cost:.4g}" if least.cost else ""
            raise TeacherError(
                f"The limit teacher.{lacking[0]} has no room for a single question, which may take "
                f"{least.tokens:,} tokens{cost}.",
                "Raise the limit, or lower teacher.max_tokens, the longest answer.",
            )

    def hold(self, question: Question) -> Use:
        """A request leaves: what it may use is set aside until it is settled."""
        self.calls += 1
        held = self.most(question)
        self._held.append(held)
        return held

    def settle(self, held: Use, question: Question, answer: Answer | None, *, unknown: bool = False) -> None:
        """A request has ended: with an answer, or without one; then for nothing, unless its use is not known."""
        self._held.remove(held)
        if answer is not None:
            self.used += self._of(question, answer)
        elif unknown:
            self.used += held

    def in_words(self) -> str:
        """What has been used so far."""
        if not self.calls:
            return "nothing has been asked yet"
        cost = f", at a cost of {self.used.cost:.4g}" if self._settings.price_in or self._settings.price_out else ""
        requests = "1 request has" if self.calls == 1 else f"{self.calls:,} requests have"
        return f"{requests} used {self.used.tokens:,} tokens{cost}"

    def _of(self, question: Question, answer: Answer) -> Use:
        """As the endpoint reports it, else estimated: each of the two for itself."""
        prompt, completion = answer.prompt_tokens, answer.completion_tokens
        if prompt:
            self._excess = max(self._excess, prompt - self._prompt_bound(question))
        else:
            prompt = sum(_estimate(text) for text in self._texts(question))
        completion = completion or _estimate(answer.text)
        self._longest = max(self._longest, completion)
        return self._priced(prompt, completion)

    def _prompt_bound(self, question: Question | None) -> int:
        """No more tokens than bytes, and what the template adds."""
        texts = [""] if question is None else self._texts(question)
        return sum(len(text.encode("utf-8", "replace")) + TOKENS_PER_MESSAGE for text in texts)

    def _texts(self, question: Question) -> list[str]:
        texts = [message.content for message in question.messages]
        system = self._settings.system
        return texts if system is None or question.messages[0].role == "system" else [system, *texts]

    def _priced(self, prompt: int, completion: int) -> Use:
        s = self._settings
        return Use(prompt, completion, (prompt * s.price_in + completion * s.price_out) / 1e6)


def _estimate(text: str) -> int:
    return ceil(len(text.encode("utf-8", "replace")) / BYTES_PER_TOKEN)
