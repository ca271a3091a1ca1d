"""Wordings of the judge's prompts. {prompt} is the last message; the turns before it stay as they are."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

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

OTHER_VERDICTS = (
    """An expert was asked this:
{prompt}

The expert answered:
{anchor}

Someone else answered:
{candidate}

Grade the other answer as a strict teacher would: 5 if it serves as well as the expert's, 3 if it is partly right, \
1 if it is of no use. Say only the grade.""",
)
OTHER_PAIRWISE = (
    """Here are two drafts, A and B, for one task.

Draft A:
{first}

Draft B:
{second}

The task was:
{prompt}

An expert's own solution:
{anchor}

Choose the draft that does the task better. Say only its letter, A or B.""",
)
"""Second wordings: other words, another order, the same choices."""

VERDICT_BLIND = """Rate an answer to a request.

Request:
{prompt}

Answer to rate:
{candidate}

How good is the answer? 1 is useless or wrong, 5 is as good as it can be. Reply with one digit, 1 to 5."""

PAIRWISE_BLIND = """Compare two answers to a request.

Request:
{prompt}

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
    other_verdicts: tuple[str, ...] = ()
    other_pairwise: tuple[str, ...] = ()
    """Further wordings of both: each is asked as well, and the read-outs are averaged."""
    verdict_blind: str = VERDICT_BLIND
    """`verdict-blind`: {prompt}, {candidate}."""
    pairwise_blind: str = PAIRWISE_BLIND
    """`pairwise-blind`: {prompt}, {first}, {second}."""
    verdict_choices: tuple[str, ...] = ("1", "2", "3", "4", "5")
    """Ratings, worst first."""
    pairwise_choices: tuple[str, str] = ("A", "B")

    def in_several_wordings(self) -> Templates:
        """With the vetted further wordings, of those questions that are in the vetted first one."""
        return replace(
            self,
            other_verdicts=OTHER_VERDICTS if self.verdict == VERDICT else self.other_verdicts,
            other_pairwise=OTHER_PAIRWISE if self.pairwise == PAIRWISE else self.other_pairwise,
        )


ANSWERS = ("candidate", "first", "second")
"""Places of answers to be judged."""


def answers_in(template: str) -> int:
    """How many answers a wording shows."""
    return sum(f"{{{name}}}" in template for name in ANSWERS)


def fill(template: str, **values: str) -> str:
    """Replace each {name} once; braces in the values or elsewhere in the template mean nothing."""
    return re.sub(r"\{(\w+)\}", lambda match: values.get(match[1], match[0]), template)
