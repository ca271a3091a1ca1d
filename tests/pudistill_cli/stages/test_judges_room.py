"""Which prompts the judge is asked about: those whose questions fit the context with the longest answers in place."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace

import pytest

from pudistill_cli.method.scorers.reading import WORD, ask
from pudistill_cli.run.context import Job
from pudistill_cli.run.opening import reopen
from pudistill_cli.stages.anchors import Anchored, ask_teacher, judge_reads
from pudistill_cli.stages.evaluator import item_of
from pudistill_cli.terminal.console import Console
from tests.tiny import Tiny

ANCHOR = '{"do":"book"}'
VIEW = "{prompt}\nreference: {anchor}"
"""As in tiny.SETTINGS."""


@pytest.fixture
def job(copied: Tiny) -> Iterator[Job]:
    with closing(reopen("tiny", copied.runs, Console(), [])) as job:
        ask_teacher(job)  # which fixes the length of answers
        yield job


def asked_by(job: Job, scorer: str, context: int) -> Job:
    """The job with another scorer and context."""
    rank = job.recipe.rank.model_copy(update={"scorer": (scorer,)})
    recipe = job.recipe.model_copy(update={"rank": rank})
    return replace(job, recipe=recipe, spec=replace(job.spec, context=context))


def anchored_of(job: Job, anchor: str = ANCHOR) -> Anchored:
    prompt = job.prompts.test[0]
    tokens = job.encode_prompt(prompt.messages)
    return Anchored(prompt, tokens, anchor, job.tokenizer.encode_answer(tokens, anchor))


def smallest_context(job: Job, scorer: str, anchored: Anchored) -> int:
    return next(n for n in range(1, 2000) if judge_reads(asked_by(job, scorer, n), anchored))


def view_tokens(job: Job, anchored: Anchored) -> int:
    (message,) = anchored.prompt.messages
    text = VIEW.replace("{prompt}", message.content).replace("{anchor}", anchored.answer)
    return len(job.encode_prompt((replace(message, content=text),)))


def test_likelihood_reads_the_view_and_an_answer_behind_it(job: Job) -> None:
    anchored = anchored_of(job)
    assert job.max_new_tokens == 24 > len(anchored.answer_tokens)
    assert smallest_context(job, "likelihood", anchored) == view_tokens(job, anchored) + 24


def test_an_anchor_longer_than_any_answer_counts(job: Job) -> None:
    """It is scored beside the candidates."""
    anchored = anchored_of(job, ANCHOR * 8)
    assert len(anchored.answer_tokens) > 24
    room = view_tokens(job, anchored) + len(anchored.answer_tokens)
    assert smallest_context(job, "likelihood", anchored) == room


@pytest.mark.parametrize(("scorer", "places"), [("verdict", ("candidate",)), ("pairwise", ("first", "second"))])
def test_questions_hold_the_longest_answers(job: Job, scorer: str, places: tuple[str, ...]) -> None:
    """Answers of 23 tokens of text in each place of the question: they fit, and little room is left over."""
    anchored = anchored_of(job)
    longest = job.decode((), job.tokenizer.encode_text(ANCHOR * 8)[:23])
    assert len(job.tokenizer.encode_text(longest)) == 23
    context = smallest_context(job, scorer, anchored)
    judge = replace(asked_by(job, scorer, context).judge(), warn=pytest.fail)
    template = getattr(judge.templates, scorer)
    question = ask(judge, item_of(anchored, []), template, **dict.fromkeys(places, longest))
    assert context - WORD - 4 <= len(question) <= context - WORD
