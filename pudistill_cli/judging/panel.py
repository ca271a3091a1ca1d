"""Scorers put to the test: the groups that all of them can read, each scorer's scores, and what they are worth."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from pudistill_cli.did_you_mean import did_you_mean
from pudistill_cli.errors import DataError, UsageError
from pudistill_cli.judging.measures import Measures, clustered, measure, order_consistency
from pudistill_cli.judging.probe import Reading, reading_of
from pudistill_cli.judging.records import Gold
from pudistill_cli.method.scorers import Array, Item, Judge, Scorer, Text
from pudistill_cli.method.scorers.pairwise import Pairwise, strengths
from pudistill_cli.method.scorers.registry import SCORERS, scorer_from
from pudistill_cli.method.statistics import Interval

Tick = Callable[[], None]


@dataclass(frozen=True, slots=True)
class Panel:
    """What is judged: groups, in tokens, that every scorer can read; and those that are too long."""

    gold: tuple[Gold, ...]
    items: tuple[Item, ...]
    readings: Mapping[str, tuple[Reading, ...]]
    """By scorer, per item."""
    too_long: tuple[Gold, ...]


@dataclass(frozen=True, slots=True)
class Answers:
    """What one scorer said of a panel's groups, in their order."""

    scores: list[Array]
    orders: list[float] | None
    """Of `pairwise`, per group: share of the pairs decided alike in both orders."""
    seconds: float


@dataclass(frozen=True, slots=True)
class Worth:
    """What one scorer is worth, and what it costs."""

    scorer: str
    measures: Measures
    orders: Interval | None
    """Of `pairwise`: share of the pairs decided alike in both orders."""
    tokens: Interval
    """Read through the model for a judgement of one candidate; a prefix that is shared counts once."""
    seconds: float
    """By the clock, for a judgement of one candidate; answers come in batches, so there is no interval."""


def scorers_for(names: Sequence[str], gold: Sequence[Gold], *, length_free: bool = False) -> list[Scorer]:
    """The named scorers, "a+b" being an ensemble; without names every one that the file allows.

    Raises:
        UsageError: there is no such scorer.
        DataError: a scorer needs the anchor, and there are groups without one.
    """
    for part in (part for name in names for part in name.split("+")):
        if part not in SCORERS:
            raise UsageError(
                f"There is no scorer {part!r}{did_you_mean(part, SCORERS)}.", f"There are {', '.join(SCORERS)}."
            )
    without = sum(group.anchor is None for group in gold)
    if not names:
        names = blind_scorers() if without else tuple(SCORERS)
    need = [name for name in names if any(SCORERS[part].sees_anchor for part in name.split("+"))]
    if need and without:
        raise DataError(
            f"{', '.join(need)} compare with the anchor, and {without:,} of {len(gold):,} groups have none.",
            f'Give each an "anchor", or use what works without: --scorer {" --scorer ".join(blind_scorers())}',
        )
    return [scorer_from(name.split("+"), length_free=length_free) for name in names]


def blind_scorers() -> tuple[str, ...]:
    """Names of the scorers that do not see the anchor."""
    return tuple(name for name, scorer in SCORERS.items() if not scorer.sees_anchor)


def without_anchor(gold: Sequence[Gold]) -> str | None:
    """What to say where no scorer was named and the file does not allow them all."""
    without = sum(group.anchor is None for group in gold)
    if not without:
        return None
    return (
        f"{without:,} of {len(gold):,} groups have no anchor: only {', '.join(blind_scorers())} are measured. With an "
        '"anchor" in each the others are too.'
    )


def seat(
    judge: Judge, scorers: Sequence[Scorer], gold: Sequence[Gold], context: int, tick: Tick = lambda: None
) -> Panel:
    """Tokenise the groups and leave out those of which a scorer's question is longer than the context.

    The same groups for all scorers: their figures are compared. `tick` as each group is tokenised.

    Raises:
        DataError: none is left.
    """
    items = [_item(judge, group) for group in gold]
    readings: list[list[Reading]] = []  # per item, per scorer
    for item in items:
        readings.append([reading_of(scorer, judge, item) for scorer in scorers])
        tick()
    longest = [max(reading.longest for reading in row) for row in readings]
    fits = [length <= context for length in longest]
    if not any(fits):
        shortest = min(longest)
        raise DataError(
            f"No group fits the context of {context:,} tokens: the shortest takes {shortest:,}.",
            f"If the model can read more: --context {shortest}. Or use a scorer that reads less: --scorer likelihood",
        )
    kept = [i for i, fit in enumerate(fits) if fit]
    return Panel(
        tuple(gold[i] for i in kept),
        tuple(items[i] for i in kept),
        {scorer.name: tuple(readings[i][s] for i in kept) for s, scorer in enumerate(scorers)},
        tuple(group for group, fit in zip(gold, fits, strict=True) if not fit),
    )


def appraise(judge: Judge, scorer: Scorer, panel: Panel, tick: Tick, seed: int = 0) -> Worth:
    """Ask one scorer about every group, `tick` as each is done, and compare with gold."""
    return worth_of(scorer, panel, ask_about(judge, scorer, panel, tick), seed)


def ask_about(judge: Judge, scorer: Scorer, panel: Panel, tick: Tick) -> Answers:
    """A scorer's scores of the panel's groups, in their order."""
    started = time.monotonic()
    scores: dict[int, Array] = {}
    orders: dict[int, float] = {}
    if isinstance(scorer, Pairwise):
        for index, first in scorer.first_wins(judge, panel.items):
            scores[index], orders[index] = strengths(first), order_consistency(first)
            tick()
    else:
        for index, found in scorer.score(judge, panel.items):
            scores[index] = found
            tick()
    places = range(len(panel.items))
    in_order = [orders[i] for i in places] if orders else None
    return Answers([scores[i] for i in places], in_order, time.monotonic() - started)


def worth_of(scorer: Scorer, panel: Panel, answers: Answers, seed: int = 0) -> Worth:
    """Compare a scorer's answers with gold."""
    keys = [group.key for group in panel.gold]
    counts = [len(item.candidates) for item in panel.items]
    per_candidate = [r.tokens / n for r, n in zip(panel.readings[scorer.name], counts, strict=True)]
    tokens = clustered(keys, np.array(per_candidate), seed)
    assert tokens is not None, "a panel is not empty"
    lengths = [np.array([float(len(c.tokens)) for c in item.candidates]) for item in panel.items]
    grades = [np.array(group.grades) for group in panel.gold]
    return Worth(
        scorer=scorer.name,
        measures=measure(keys, answers.scores, grades, lengths, seed),
        orders=None if answers.orders is None else clustered(keys, np.array(answers.orders), seed),
        tokens=tokens,
        seconds=answers.seconds / sum(counts),
    )


def _item(judge: Judge, group: Gold) -> Item:
    prompt = judge.encode(group.messages)

    def answer(text: str) -> Text:
        return Text(judge.encode_answer(prompt, text), text)

    anchor = Text((), "") if group.anchor is None else answer(group.anchor)
    return Item(group.key, group.messages, prompt, anchor, tuple(answer(text) for text in group.texts))
