"""What every metric is: a name, and a number for an answer."""

from __future__ import annotations

from abc import ABC, abstractmethod


class Metric(ABC):
    """Grades answers; higher is better."""

    name: str
    """As the table's column is called."""
    is_share: bool | None = False
    """Whether an answer is right or wrong (1 or 0) and nothing between; None where only the values tell."""

    @abstractmethod
    def __call__(self, answer: str, reference: str, prompt: str) -> float:
        """The grade of an answer, given the reference and the prompt's last message."""

    def alone(self, answer: str) -> float | None:
        """The grade of an answer to a prompt that has no reference; None where nothing can be said without one."""
        return None

    def problem(self, reference: str) -> str | None:
        """Why no answer can be right by this reference, as the end of "the reference ..."; None where one can."""
        return None
