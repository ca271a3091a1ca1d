"""The metrics `regex` and `contains`, which need no reference: what an answer has to hold."""

from __future__ import annotations

from functools import lru_cache
from importlib import import_module
from typing import Annotated, Any, cast

from pydantic import AfterValidator, Field
from pydantic.dataclasses import dataclass

from pudistill_cli.metrics.metric import Metric
from pudistill_cli.metrics.settings import SETTINGS, Switch, Word

LONGEST_PATTERN = 1000
"""Characters of a pattern: what the engine makes of so many is small, whatever they are."""


@lru_cache(maxsize=16)
def _compiled(pattern: str) -> Any:
    """RE2's, which takes time in proportion to the text, and bounded memory, whatever the pattern is.

    Raises:
        ValueError: it is no pattern of RE2.
    """
    re2: Any = import_module("re2")  # it has no types
    options = re2.Options()
    options.log_errors = False
    try:
        return re2.compile(pattern, options)
    except (re2.error, UnicodeEncodeError) as problem:
        error = cast("Exception", problem)
        said: Any = error.args[0] if error.args else ""
        why = said.decode("utf-8", "replace") if isinstance(said, bytes) else str(error)
        raise ValueError(f"is no regular expression of RE2's syntax, which has no look-around: {why}") from None


def _checked(pattern: str) -> str:
    _compiled(pattern)
    return pattern


@dataclass(frozen=True, config=SETTINGS)
class Regex(Metric):
    """Whether a pattern is found in an answer, whitespace around it left out; ^ and $ are its ends."""

    pattern: Annotated[str, Field(min_length=1, max_length=LONGEST_PATTERN), AfterValidator(_checked)]
    """In RE2's syntax: (?i) before it ignores case, (?s) lets a dot match the end of a line."""

    name = "regex"
    is_share = True

    def __call__(self, answer: str, reference: str, prompt: str) -> float:
        """1 or 0; the reference says nothing."""
        return self.alone(answer)

    def alone(self, answer: str) -> float:
        """1 or 0."""
        text = answer.strip().encode("utf-8", "replace").decode()  # halves of surrogate pairs are no text
        return float(_compiled(self.pattern).search(text) is not None)


@dataclass(frozen=True, config=SETTINGS)
class Contains(Metric):
    """The share of some strings that an answer holds."""

    strings: Annotated[list[Word], Field(min_length=1)]
    ignore_case: Switch = False

    name = "contains"

    def __call__(self, answer: str, reference: str, prompt: str) -> float:
        """From 0 to 1; the reference says nothing."""
        return self.alone(answer)

    def alone(self, answer: str) -> float:
        """From 0 to 1."""
        text = answer.casefold() if self.ignore_case else answer
        wanted = [s.casefold() if self.ignore_case else s for s in self.strings]
        return sum(s in text for s in wanted) / len(wanted)
