"""Scorers: the frozen student's judgement of an answer with the anchor in view; a higher number is better."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from pudistill_cli.method.scorers.templates import Templates
from pudistill_cli.types import Adapter, Continuations, Floats, Message, Tokens

Array = NDArray[np.float64]
Scores = Iterator[tuple[int, Array]]
"""(index of the item, (K,) scores of its candidates), as the items finish, in any order."""


class Reader(Protocol):
    """What of an engine (backend_api/contract.py) a judge is asked through."""

    def logprobs(
        self, requests: Sequence[Continuations], adapter: Adapter | None
    ) -> Iterator[tuple[int, tuple[Floats, ...]]]:
        """As `contract.Engine.logprobs`."""
        ...

    def choice_logits(
        self, requests: Sequence[Continuations], choices: Sequence[int], adapter: Adapter | None
    ) -> Iterator[tuple[int, Floats]]:
        """As `contract.Engine.choice_logits`."""
        ...

    def distributions(self, tokens: Sequence[int], last_n: int, adapter: Adapter | None) -> Floats:
        """As `contract.Engine.distributions`."""
        ...


@dataclass(frozen=True, slots=True)
class Judge:
    """The frozen student that scores, and how text becomes its tokens."""

    engine: Reader
    adapter: Adapter | None
    encode: Callable[[tuple[Message, ...]], Tokens]
    """A conversation as the student sees it, generation prompt included."""
    encode_answer: Callable[[Tokens, str], Tokens]
    """An answer's tokens behind the tokens of its prompt."""
    decode: Callable[[Sequence[int]], str]
    """Text of ids, special tokens left out, by the student's own tokenizer."""
    templates: Templates = field(default_factory=Templates)
    context: int | None = None
    """The longest sequence that the engine reads; None if it does not matter."""
    warn: Callable[[str], None] = lambda notice: None
    """Where notices to the user go."""


@dataclass(frozen=True, slots=True)
class Text:
    """An answer: its token ids as drawn, and its text."""

    tokens: Tokens
    text: str


@dataclass(frozen=True, slots=True)
class Item:
    """A prompt, its anchor, and the answers to score. The anchor is scored by being one of the candidates."""

    key: str
    messages: tuple[Message, ...]
    prompt: Tokens
    """`Judge.encode(messages)`."""
    anchor: Text
    candidates: tuple[Text, ...]


class Scorer(Protocol):
    """One way to score: gates, plan and stages know of it what stands here."""

    @property
    def name(self) -> str:
        """As in the recipe's `rank.scorer`."""
        ...

    @property
    def asks_model(self) -> bool:
        """True if it asks the model, false if it compares strings: they pass different gates."""
        ...

    @property
    def sees_anchor(self) -> bool:
        """Whether its scores depend on the anchor."""
        ...

    @property
    def relative(self) -> bool:
        """Whether its score of an answer depends on what else is scored with it."""
        ...

    def questions(self, templates: Templates) -> tuple[str, ...]:
        """The wordings in which it lets the judge choose: the context must hold them."""
        ...

    def score(self, judge: Judge, items: Sequence[Item]) -> Scores:
        """Score every candidate of every item."""
        ...


def no_questions(scorer: Scorer, templates: Templates) -> tuple[str, ...]:
    """`Scorer.questions` of one that lets the judge choose nothing: it reads log-probs, or strings."""
    return ()
