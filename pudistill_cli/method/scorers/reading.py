"""How scorers put questions to the judge: rendered prompts, shared prefixes, tokens of the choices."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

import numpy as np

from pudistill_cli.errors import DataError
from pudistill_cli.method.scorers import Array, Item, Judge, Scores
from pudistill_cli.method.scorers.templates import fill
from pudistill_cli.types import Continuations, Floats, Message, Tokens

WORD = 8
"""Tokens kept free behind a question, for the word that is read and for texts that join otherwise at their seams."""


def ask(judge: Judge, item: Item, template: str, **answers: str) -> Tokens:
    """The item's conversation with `template` in place of its last message, as the student sees it.

    Broken characters take more tokens as text than as they were drawn: answers that pass the context by that are shown
    without their ends.
    """
    while True:
        question = judge.encode(placed(item.messages, template, anchor=item.anchor.text, **answers))
        over = 0 if judge.context is None else len(question) + WORD - judge.context
        name = max(answers, key=lambda n: len(answers[n]), default="")
        if over <= 0 or not answers.get(name):
            return question
        judge.warn(f"The judge sees answers without their ends where a question passes {judge.context:,} tokens.")
        answers[name] = answers[name][:-over]


def placed(messages: tuple[Message, ...], template: str, **texts: str) -> tuple[Message, ...]:
    """The conversation with `template` in place of its last message, which is the template's {prompt}."""
    *before, last = messages
    return (*before, replace(last, content=fill(template, prompt=last.content, **texts)))


def mean_logprobs(judge: Judge, items: Sequence[Item], prefixes: Sequence[Tokens]) -> Scores:
    """Yield (index, (K,) mean log-prob per token of the candidates behind the item's prefix)."""
    requests = [
        Continuations(prefix, tuple(c.tokens for c in item.candidates))
        for prefix, item in zip(prefixes, items, strict=True)
    ]
    for index, rows in judge.engine.logprobs(requests, judge.adapter):
        yield index, np.array([row.astype(np.float64).mean() for row in rows])


def read_choices(
    judge: Judge, questions: Sequence[Sequence[Tokens]], words: Sequence[str]
) -> Iterator[tuple[int, Floats]]:
    """Yield (index, (S, C) logits of the words as the answer to each of the item's S questions)."""
    lead, choices = _choice_tokens(judge, questions[0][0], words) if questions else ((), ())
    requests = [_shared_prefix([tokens + lead for tokens in asked]) for asked in questions]
    yield from judge.engine.choice_logits(requests, choices, judge.adapter)


def mean_over_wordings(results: Iterable[tuple[int, Array]], wordings: int) -> Scores:
    """Yield (index, the mean of an item's `wordings` results) as its last one comes."""
    waiting: dict[int, list[Array]] = {}
    for index, result in results:
        held = waiting.setdefault(index, [])
        held.append(result)
        if len(held) == wordings:
            yield index, np.mean(waiting.pop(index), axis=0)


def _shared_prefix(sequences: Sequence[Tokens]) -> Continuations:
    """Split sequences behind their longest common beginning, so that it is computed once."""
    shortest = min(len(s) for s in sequences)
    n = next((i for i in range(shortest) if len({s[i] for s in sequences}) > 1), shortest)
    n = min(n, shortest - 1)  # a suffix holds the token whose successor is read
    return Continuations(sequences[0][:n], tuple(s[n:] for s in sequences))


def _choice_tokens(judge: Judge, question: Tokens, words: Sequence[str]) -> tuple[Tokens, Tokens]:
    """The tokens that all words begin with, and the token of each word that tells it from the others.

    Raises:
        DataError: the tokenizer does not tell the words apart by one token.
    """
    answers = [judge.encode_answer(question, word) for word in words]
    shortest = min(len(a) for a in answers)
    for n in range(shortest):
        tokens = tuple(a[n] for a in answers)
        if len(set(tokens)) == len(words):
            return answers[0][:n], tokens
        if len(set(tokens)) > 1:
            break
    raise DataError(
        f"The student's tokenizer does not tell {', '.join(words)} apart by one token: they cannot be read.",
        "Use a scorer that reads nothing: --set rank.scorer=likelihood",
    )
