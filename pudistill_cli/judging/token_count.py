"""What a scorer reads of an item, counted by an engine that computes nothing."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from pudistill_cli.method.scorers import Item, Judge, Scorer
from pudistill_cli.types import Adapter, Continuations, Floats


@dataclass(slots=True)
class _Counter:
    """A `Reader` that reads nothing: every log-prob and logit is 0."""

    longest: int = 0
    total: int = 0

    def logprobs(
        self, requests: Sequence[Continuations], adapter: Adapter | None
    ) -> Iterator[tuple[int, tuple[Floats, ...]]]:
        for index, request in enumerate(requests):
            self._count(request)
            yield index, tuple(np.zeros(len(c), dtype=np.float32) for c in request.continuations)

    def choice_logits(
        self, requests: Sequence[Continuations], choices: Sequence[int], adapter: Adapter | None
    ) -> Iterator[tuple[int, Floats]]:
        for index, request in enumerate(requests):
            self._count(request)
            yield index, np.zeros((len(request.continuations), len(choices)), dtype=np.float32)

    def distributions(self, tokens: Sequence[int], last_n: int, adapter: Adapter | None) -> Floats:
        raise AssertionError("a scorer asks for no distribution")

    def _count(self, request: Continuations) -> None:
        lengths = [len(c) for c in request.continuations]
        self.longest = max(self.longest, len(request.prefix) + max(lengths))
        self.total += len(request.prefix) + sum(lengths)


@dataclass(frozen=True, slots=True)
class TokenCount:
    """Tokens of the sequences that a scorer reads of an item."""

    longest: int
    """Of one sequence."""
    total: int
    """Of all of them, a shared beginning once."""


def count_tokens(scorer: Scorer, judge: Judge, item: Item) -> TokenCount:
    """Count one item's questions as they are, none cut to the context."""
    counter = _Counter()
    for _ in scorer.score(replace(judge, engine=counter, context=None), [item]):
        pass
    return TokenCount(counter.longest, counter.total)
