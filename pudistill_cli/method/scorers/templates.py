"""Wordings of the judge's prompts. {prompt} is the last message; the turns before it stay as they are."""

from __future__ import annotations

import re
from dataclasses import dataclass

VIEW = """{prompt}

An expert has answered this already. The expert's answer, for reference:

{anchor}

Now give your own answer to the request above."""

TEXT_VIEW = """{prompt}{anchor}

{prompt}"""
"""For base models, which continue text: the anchor's continuation as an example, then the same beginning."""

VERDICT = """Rate an answer to a request by comparing it with a reference answer that is known to be good.

Request:
{prompt}

Reference answer:
{anchor}

Answer to rate:
{candidate}

How good is the answer? 1 is useless or wrong, 5 is as good as the reference. Reply with one digit, 1 to 5."""

PAIRWISE = """Compare two answers to a request with the help of a reference answer that is known to be good.

Request:
{prompt}

Reference answer:
{anchor}

Answer A:
{first}

Answer B:
{second}

Which answer is better? Reply with A or B."""


@dataclass(frozen=True, slots=True)
class Templates:
    """The wordings a run uses, and the words whose probabilities are read."""

    view: str = VIEW
    """`likelihood`, `pmi`: {prompt}, {anchor}."""
    verdict: str = VERDICT
    """`verdict`: {prompt}, {anchor}, {candidate}."""
    pairwise: str = PAIRWISE
    """`pairwise`: {prompt}, {anchor}, {first}, {second}."""
    other_views: tuple[str, ...] = ()
    """Further wordings of `view`; the gates report how well the scores agree."""
    verdict_choices: tuple[str, ...] = ("1", "2", "3", "4", "5")
    """Ratings, worst first."""
    pairwise_choices: tuple[str, str] = ("A", "B")


def fill(template: str, **values: str) -> str:
    """Replace each {name} once; braces in the values or elsewhere in the template mean nothing."""
    return re.sub(r"\{(\w+)\}", lambda match: values.get(match[1], match[0]), template)
