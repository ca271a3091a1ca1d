"""The recipe's limits on calls, tokens and cost, and what has been used of them in one command."""

from __future__ import annotations

from math import ceil

from pudistill_cli.config.teacher import EndpointTeacher
from pudistill_cli.teacher.answers import Answer, Question

BYTES_PER_TOKEN = 3
"""For endpoints that report no usage (ours). English is nearer to 4: a limit comes early rather than late."""


class Budget:
    """Counts requests as they leave and tokens as answers arrive."""

    def __init__(self, settings: EndpointTeacher) -> None:
        self._settings = settings
        self.calls = 0
        self.tokens = 0
        self.cost = 0.0

    def reached(self) -> str | None:
        """The first limit that is reached, with its value, or None."""
        s = self._settings
        if s.max_calls is not None and self.calls >= s.max_calls:
            return f"max_calls ({s.max_calls:,})"
        if s.max_tokens_total is not None and self.tokens >= s.max_tokens_total:
            return f"max_tokens_total ({s.max_tokens_total:,})"
        if s.max_cost is not None and self.cost >= s.max_cost:
            return f"max_cost ({s.max_cost:g})"
        return None

    def call(self) -> None:
        """A request leaves."""
        self.calls += 1

    def spend(self, question: Question, answer: Answer) -> None:
        """An answer has arrived."""
        prompt, completion = answer.prompt_tokens, answer.completion_tokens
        if not prompt and not completion:
            prompt = sum(_estimate(message.content) for message in question.messages)
            completion = _estimate(answer.text)
        self.tokens += prompt + completion
        self.cost += (prompt * self._settings.price_in + completion * self._settings.price_out) / 1e6


def _estimate(text: str) -> int:
    return ceil(len(text.encode("utf-8", "replace")) / BYTES_PER_TOKEN)
