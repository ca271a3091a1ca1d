"""Log-probs of given tokens and the judge's read-out, many small requests to a forward pass."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TypeAlias, TypeVar

import numpy as np

from pudistill_cli.backend_api.micro_batching import Branch, request_batches, request_length
from pudistill_cli.errors import DataError
from pudistill_cli.types import Continuations, Floats, Tokens

S = TypeVar("S")
"""A framework's (R, 1 + W, D) states: state 0 behind the prefix, state t behind the t-th token."""
States: TypeAlias = Callable[[Sequence[Tokens], Sequence[Branch], int], Iterator[tuple[Sequence[Branch], S]]]
"""From prefixes, branches and a number of rows to branches in the same order, at most so many together, and states."""


def read_logprobs(
    requests: Sequence[Continuations],
    budget: int,
    states_of: States[S],
    logprobs_of: Callable[[S, Sequence[Tokens]], Floats],
) -> Iterator[tuple[int, tuple[Floats, ...]]]:
    """See `contract.Scoring.logprobs`; `logprobs_of` states and R continuations are (N,), row by row."""

    def read(states: S, continuations: Sequence[Tokens]) -> Sequence[Floats]:
        ends = np.cumsum([len(tokens) for tokens in continuations])
        return np.split(logprobs_of(states, continuations), ends[:-1])

    # The last token of a continuation is predicted, never read.
    for index, results in _read(requests, budget, states_of, lambda tokens: tokens[:-1], read):
        yield index, tuple(results)


def read_choice_logits(
    requests: Sequence[Continuations],
    choices: Sequence[int],
    budget: int,
    states_of: States[S],
    logits_at: Callable[[S, Sequence[int]], Floats],
) -> Iterator[tuple[int, Floats]]:
    """See `contract.Engine.choice_logits`; `logits_at` states and R indices of a state are (R, C)."""

    def read(states: S, continuations: Sequence[Tokens]) -> Sequence[Floats]:
        return list(logits_at(states, [len(tokens) for tokens in continuations]))

    for index, results in _read(requests, budget, states_of, lambda tokens: tokens, read):
        yield index, np.stack(results) if results else np.zeros((0, len(choices)), np.float32)


def check_prefixes(prefixes: Sequence[Tokens]) -> None:
    """Refuse an empty prefix, behind which nothing predicts a first token (DataError)."""
    if not all(prefixes):
        raise DataError("There is nothing before an answer to predict it from.", "Give the prompt some text.")


def _read(
    requests: Sequence[Continuations],
    budget: int,
    states_of: States[S],
    fed: Callable[[Tokens], Tokens],
    read: Callable[[S, Sequence[Tokens]], Sequence[Floats]],
) -> Iterator[tuple[int, list[Floats]]]:
    """Yield (index, one result a continuation), the longest requests first."""
    for batch in request_batches(requests, budget):
        # A call of its own: states are freed before results are yielded.
        results = _read_batch([requests[i] for i in batch], budget, states_of, fed, read)
        yield from zip(batch, results, strict=True)


def _read_batch(
    requests: Sequence[Continuations],
    budget: int,
    states_of: States[S],
    fed: Callable[[Tokens], Tokens],
    read: Callable[[S, Sequence[Tokens]], Sequence[Floats]],
) -> list[list[Floats]]:
    owned = [(owner, tokens) for owner, request in enumerate(requests) for tokens in request.continuations]
    branches = [Branch(owner, fed(tokens)) for owner, tokens in owned]
    rows = max(1, budget // max(map(request_length, requests)))
    results: list[list[Floats]] = [[] for _ in requests]
    done = 0
    for chunk, states in states_of([request.prefix for request in requests], branches, rows):
        here = owned[done : done + len(chunk)]
        done += len(chunk)
        for (owner, _), result in zip(here, read(states, [tokens for _, tokens in here]), strict=True):
            results[owner].append(result)
    return results
