"""Engines on random models, and prompts for them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pudistill_cli.backend_api.contract import ModelSpec
from pudistill_cli.types import Candidate, PromptTokens, Sampling
from pudistill_llamacpp import backend
from pudistill_llamacpp.engine import LlamaCppEngine

STOP = (1, 2)
Groups = dict[str, tuple[Candidate, ...]]


def open_engine(folder: Path, **changes: Any) -> LlamaCppEngine:
    """Exact (float32) on one thread, unless `changes` of the spec say otherwise."""
    settings: dict[str, Any] = {"context": 256, "device": "cpu", "dtype": "float32", "threads": 1}
    return backend.open(ModelSpec(folder, STOP, **(settings | changes)))


def random_tokens(rng: np.random.Generator, length: int, vocabulary: int = 500) -> tuple[int, ...]:
    return tuple(int(token) for token in rng.integers(3, vocabulary, length))


def make_prompts(count: int, seed: int = 0, longest: int = 40) -> list[PromptTokens]:
    """Of uneven length, the shortest of one token."""
    rng = np.random.default_rng(seed)
    return [PromptTokens(f"key-{i}", random_tokens(rng, 1 + i * longest // count)) for i in range(count)]


def sampled(
    engine: LlamaCppEngine, prompts: Sequence[PromptTokens], adapter: str | None = None, k: int = 4, **changes: Any
) -> Groups:
    settings = {"max_new_tokens": 24, "seed": 5} | changes
    return {prompts[i].key: group for i, group in engine.sample(prompts, k, Sampling(**settings), adapter)}


def assert_identical(one: Groups, other: Groups) -> None:
    """Tokens, ends, and log-probs to the last bit."""
    assert one.keys() == other.keys()
    for key, group in one.items():
        for a, b in zip(group, other[key], strict=True):
            assert (a.tokens, a.finish, a.logprobs.tobytes()) == (b.tokens, b.finish, b.logprobs.tobytes())
