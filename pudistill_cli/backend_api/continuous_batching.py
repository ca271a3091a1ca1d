"""Continuous batching: K candidates a prompt, in rows that join and leave while others go on.

The longest prompts come first, and each is prefilled once.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol, Self, TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray

from pudistill_cli.backend_api.contract import ModelSpec
from pudistill_cli.errors import DataError
from pudistill_cli.method.sampling import uniforms
from pudistill_cli.types import Candidate, PromptTokens, Sampling

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

    def joined(self, other: Self) -> Self:
        """Both, decoded together from now on."""
        ...


R = TypeVar("R", bound=Rows)
Chosen: TypeAlias = Sequence[tuple[int, PromptTokens]]
"""Prompts with their index into the request."""


def sample_continuously(
    spec: ModelSpec, prompts: Sequence[PromptTokens], k: int, start: Callable[[Chosen], R]
) -> Iterator[tuple[int, tuple[Candidate, ...]]]:
    """See `contract.Engine.sample`; `start` prefills prompts and draws the first tokens of their K rows each.

    Raises:
        DataError: a prompt leaves no room for an answer.
    """
    check_room(prompts, spec.context)
    waiting = longest_first(prompts)
    groups = OpenGroups(k)
    decoding: R | None = None
    most = max(spec.sample_rows, k)
    while waiting or decoding:
        free = most - (decoding.rows if decoding else 0)
        if waiting and free >= k and (decoding is None or free * ADMIT_SHARE >= most):
            chosen = _next(waiting, prompts, free // k, spec.token_budget)
            fresh = start([(i, prompts[i]) for i in chosen])
            decoding = decoding.joined(fresh) if decoding else fresh
        assert decoding is not None
        yield from groups.completed_by(decoding.take_finished())
        if decoding.rows:
            decoding.step()
        else:
            decoding = None


def longest_first(prompts: Sequence[PromptTokens]) -> deque[int]:
    """Indices of the prompts in the order in which they are sampled."""
    return deque(sorted(range(len(prompts)), key=lambda i: -len(prompts[i].tokens)))


def check_room(prompts: Sequence[PromptTokens], context: int) -> None:
    """Refuse a prompt behind which no token fits the context (DataError)."""
    for prompt in prompts:
        if not 0 < len(prompt.tokens) < context:
            raise DataError(
                f"A prompt of {len(prompt.tokens)} tokens leaves no room for an answer in a context of "
                f"{context} (key {prompt.key}).",
                "Shorten or remove it, or raise student.context if the student allows it.",
            )


class OpenGroups:
    """The candidates that have ended so far, until all K of their prompt have."""

    def __init__(self, k: int) -> None:
        self._k = k
        self._groups: dict[int, dict[int, Candidate]] = {}

    def completed_by(
        self, finished: Iterable[tuple[int, int, Candidate]]
    ) -> Iterator[tuple[int, tuple[Candidate, ...]]]:
        """Yield (prompt, its K candidates by their number) of the groups that these (prompt, number, candidate) end."""
        for prompt, number, candidate in finished:
            group = self._groups.setdefault(prompt, {})
            group[number] = candidate
            if len(group) == self._k:
                del self._groups[prompt]
                yield prompt, tuple(group[n] for n in range(self._k))


@dataclass(frozen=True, slots=True)
class FreshRows:
    """What is known of B = prompts * K rows before anything is drawn."""

    prompt: NDArray[np.int64]  # (B,) index into the request
    number: NDArray[np.int64]  # (B,) which of the K candidates
    limit: NDArray[np.int64]  # (B,) most tokens to draw
    uniform: NDArray[np.float64]  # (B, max_new_tokens)


def fresh_rows(prompts: Chosen, k: int, sampling: Sampling, context: int) -> FreshRows:
    """K rows for each prompt, one prompt's behind the other's."""
    most = sampling.max_new_tokens
    drawn = [uniforms(sampling.seed, sampling.round, p.key, number, most) for _, p in prompts for number in range(k)]
    return FreshRows(
        prompt=np.repeat([i for i, _ in prompts], k),
        number=np.tile(np.arange(k), len(prompts)),
        limit=np.repeat([min(most, context - len(p.tokens)) for _, p in prompts], k),
        uniform=np.stack(drawn),
    )


def _next(waiting: deque[int], prompts: Sequence[PromptTokens], most: int, budget: int) -> list[int]:
    """The next prompts to prefill together: at most `most`, and `budget` tokens with padding."""
    longest = len(prompts[waiting[0]].tokens)
    return [waiting.popleft() for _ in range(min(most, max(1, budget // longest), len(waiting)))]
