"""Sampling K candidates a prompt: many prompts in flight, longest first, each prefilled once."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Protocol, TypeAlias, TypeVar

from pudistill_cli.backend_api.contract import ModelSpec
from pudistill_cli.errors import DataError
from pudistill_cli.types import Candidate, PromptTokens

ADMIT_SHARE = 4
"""New prompts are admitted when 1 / ADMIT_SHARE of the rows is free: often enough, and not at every step."""


class Rows(Protocol):
    """A backend's rows that are decoded together."""

    @property
    def rows(self) -> int:
        """How many there are."""
        ...

    def step(self) -> None:
        """Feed every row's last token and draw the next one."""
        ...

    def take_finished(self) -> list[tuple[int, int, Candidate]]:
        """(prompt, number, candidate) of the rows that leave now."""
        ...


R = TypeVar("R", bound=Rows)
Chosen: TypeAlias = Sequence[tuple[int, PromptTokens]]


def sample_in_flight(
    spec: ModelSpec,
    prompts: Sequence[PromptTokens],
    k: int,
    start: Callable[[Chosen], R],
    join: Callable[[R, R], R],
) -> Iterator[tuple[int, tuple[Candidate, ...]]]:
    """See `contract.Engine.sample`; `start` prefills prompts and draws the first tokens of their K rows each.

    Raises:
        DataError: a prompt leaves no room for an answer.
    """
    _check_room(spec, prompts)
    waiting = deque(sorted(range(len(prompts)), key=lambda i: -len(prompts[i].tokens)))
    unfinished: dict[int, list[Candidate | None]] = {}
    decoding: R | None = None
    most = max(spec.sample_rows, k)
    while waiting or decoding:
        free = most - (decoding.rows if decoding else 0)
        if waiting and free >= k and (decoding is None or free * ADMIT_SHARE >= most):
            chosen = _next(waiting, prompts, free // k, spec.token_budget)
            unfinished |= {i: [None] * k for i in chosen}
            fresh = start([(i, prompts[i]) for i in chosen])
            decoding = join(decoding, fresh) if decoding else fresh
        assert decoding is not None
        for prompt, number, candidate in decoding.take_finished():
            group = unfinished[prompt]
            group[number] = candidate
            if None not in group:
                yield prompt, tuple(c for c in unfinished.pop(prompt) if c is not None)
        if decoding.rows:
            decoding.step()
        else:
            decoding = None


def _next(waiting: deque[int], prompts: Sequence[PromptTokens], most: int, budget: int) -> list[int]:
    """The next prompts to prefill together: at most `most`, and `budget` tokens with padding."""
    longest = len(prompts[waiting[0]].tokens)
    return [waiting.popleft() for _ in range(min(most, max(1, budget // longest), len(waiting)))]


def _check_room(spec: ModelSpec, prompts: Sequence[PromptTokens]) -> None:
    for prompt in prompts:
        if not 0 < len(prompt.tokens) < spec.context:
            raise DataError(
                f"A prompt of {len(prompt.tokens)} tokens leaves no room for an answer in a context of "
                f"{spec.context} (key {prompt.key}).",
                "Shorten or remove it, or raise student.context if the student allows it.",
            )
