"""Sampling K candidates a prompt: many prompts in flight, longest first, each prefilled once."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence

from pudistill_cli.contract import Adapter, Candidate, PromptTokens, Sampling
from pudistill_cli.errors import DataError
from pudistill_mlx.decoding import Decoding, start
from pudistill_mlx.model import Model

ADMIT_SHARE = 4
"""New prompts are admitted when 1 / ADMIT_SHARE of the rows is free: often enough, and not at every step."""


def sample(
    model: Model, prompts: Sequence[PromptTokens], k: int, sampling: Sampling, adapter: Adapter | None
) -> Iterator[tuple[int, tuple[Candidate, ...]]]:
    """See `contract.Engine.sample`.

    Raises:
        DataError: a prompt leaves no room for an answer.
    """
    _check_room(model, prompts)
    waiting = deque(sorted(range(len(prompts)), key=lambda i: -len(prompts[i].tokens)))
    unfinished: dict[int, list[Candidate | None]] = {}
    decoding: Decoding | None = None
    most = max(model.spec.sample_rows, k)
    while waiting or decoding:
        free = most - (decoding.rows if decoding else 0)
        if waiting and free >= k and (decoding is None or free * ADMIT_SHARE >= most):
            chosen = _next(waiting, prompts, free // k, model.spec.token_budget)
            unfinished |= {i: [None] * k for i in chosen}
            fresh = start(model, [(i, prompts[i]) for i in chosen], k, sampling, adapter)
            decoding = decoding.joined(fresh) if decoding else fresh
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


def _check_room(model: Model, prompts: Sequence[PromptTokens]) -> None:
    for prompt in prompts:
        if not 0 < len(prompt.tokens) < model.spec.context:
            raise DataError(
                f"A prompt of {len(prompt.tokens)} tokens leaves no room for an answer in a context of "
                f"{model.spec.context} (key {prompt.key}).",
                "Shorten or remove it, or raise student.context if the student allows it.",
            )
