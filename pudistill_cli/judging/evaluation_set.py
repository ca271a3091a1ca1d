"""What scorers are evaluated on: gold groups as the judge's tokens, those that every scorer can read."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from pudistill_cli.errors import DataError
from pudistill_cli.judging.records import Gold
from pudistill_cli.judging.token_count import TokenCount, count_tokens
from pudistill_cli.method.scorers import Item, Judge, Scorer, Text

Advance = Callable[[], None]
"""Called as each group is done."""


@dataclass(frozen=True, slots=True)
class EvaluationSet:
    """The groups that fit the context, in tokens, and those that do not."""

    gold: tuple[Gold, ...]
    items: tuple[Item, ...]
    """Of `gold`, in its order."""
    token_counts: Mapping[str, tuple[TokenCount, ...]]
    """By scorer, per item."""
    too_long: tuple[Gold, ...]


def build_evaluation_set(
    judge: Judge, scorers: Sequence[Scorer], gold: Sequence[Gold], context: int, advance: Advance = lambda: None
) -> EvaluationSet:
    """Tokenise the groups and leave out those of which a scorer's question is longer than the context.

    The same groups for all scorers: their figures are compared.

    Raises:
        DataError: none is left.
    """
    items = [_item(judge, group) for group in gold]
    counts: list[list[TokenCount]] = []  # per item, per scorer
    for item in items:
        counts.append([count_tokens(scorer, judge, item) for scorer in scorers])
        advance()
    longest = [max(count.longest for count in row) for row in counts]
    fits = [length <= context for length in longest]
    if not any(fits):
        shortest = min(longest)
        raise DataError(
            f"No group fits the context of {context:,} tokens: the shortest takes {shortest:,}.",
            f"If the model can read more: --context {shortest}. Or use a scorer that reads less: --scorer likelihood",
        )
    kept = [i for i, fit in enumerate(fits) if fit]
    return EvaluationSet(
        tuple(gold[i] for i in kept),
        tuple(items[i] for i in kept),
        {scorer.name: tuple(counts[i][s] for i in kept) for s, scorer in enumerate(scorers)},
        tuple(group for group, fit in zip(gold, fits, strict=True) if not fit),
    )


def _item(judge: Judge, group: Gold) -> Item:
    prompt = judge.encode(group.messages)

    def answer(text: str) -> Text:
        return Text(judge.encode_answer(prompt, text), text)

    anchor = Text((), "") if group.anchor is None else answer(group.anchor)
    return Item(group.key, group.messages, prompt, anchor, tuple(answer(text) for text in group.texts))
