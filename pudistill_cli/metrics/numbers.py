"""The metric `number`: the last number of an answer, against the last one of its reference."""

from __future__ import annotations

import re
from decimal import Decimal

from pydantic.dataclasses import dataclass

from pudistill_cli.metrics.metric import Metric
from pudistill_cli.metrics.settings import SETTINGS, Tolerance

_NUMBER = re.compile(
    r"(?P<sign>(?<![A-Za-z0-9_)\]])[-+−])?[$€£¥]?"
    r"(?P<digits>(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)(?:\.\d+)?|(?<!\d)\.\d+)"
    r"(?P<exponent>[eE][-+]?\d+)?"
)
"""A minus that stands behind a letter, a digit or a bracket is none of the number's: 10-5, x-5, 2024-11-30."""


@dataclass(frozen=True, config=SETTINGS)
class Number(Metric):
    """Whether the last number of an answer is the last one of the reference, within either tolerance.

    "1,250.5", "-3", ".5" and "1e-3" are numbers; a comma belongs to one only where it parts thousands.
    """

    absolute: Tolerance = 0.0
    """How far off it may be."""
    relative: Tolerance = 0.0
    """Likewise, as a share of the reference's number."""

    name = "number"
    is_share = True

    def __call__(self, answer: str, reference: str, prompt: str) -> float:
        """1 or 0; 0 where either has no number."""
        a, b = last_number(answer), last_number(reference)
        if a is None or b is None:
            return 0.0
        if a == b:
            return 1.0
        try:
            allowed = max(Decimal(str(self.absolute)), Decimal(str(self.relative)) * abs(b))
            return float(abs(a - b) <= allowed)
        except ArithmeticError:  # exponents beyond what Decimal computes with
            return 0.0

    def alone(self, answer: str) -> float:
        """Whether there is a number."""
        return float(last_number(answer) is not None)

    def problem(self, reference: str) -> str | None:
        """There is no number."""
        return "has no number" if last_number(reference) is None else None


def last_number(text: str) -> Decimal | None:
    """The last number of a text; None where there is none."""
    numbers = list(_NUMBER.finditer(text))
    if not numbers:
        return None
    found = numbers[-1]
    sign = "-" if found["sign"] in ("-", "−") else ""
    try:
        return Decimal(f"{sign}{found['digits'].replace(',', '')}{found['exponent'] or ''}")
    except ArithmeticError:  # an exponent that Decimal does not hold
        return None
