"""Engines on random models, and prompts for them."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from pudistill_cli.backend_api.contract import ModelSpec
from pudistill_cli.types import PromptTokens
from pudistill_llamacpp import backend
from pudistill_llamacpp.engine import LlamaCppEngine
from tests.backends import random_batches
from tests.backends.random_batches import Groups

STOP = (1, 2)
random_tokens = partial(random_batches.random_tokens, vocabulary=500)
sampled = partial(random_batches.sampled, max_new_tokens=24)


def open_engine(folder: Path, **changes: Any) -> LlamaCppEngine:
    """Exact (float32) on one thread, unless `changes` of the spec say otherwise."""
    settings: dict[str, Any] = {"context": 256, "device": "cpu", "dtype": "float32", "threads": 1}
    return backend.open(ModelSpec(folder, STOP, **(settings | changes)))


def make_prompts(count: int, seed: int = 0, longest: int = 40) -> list[PromptTokens]:
    """Of uneven length, the shortest of one token."""
    rng = np.random.default_rng(seed)
    return [PromptTokens(f"key-{i}", random_tokens(rng, 1 + i * longest // count)) for i in range(count)]


def assert_identical(one: Groups, other: Groups) -> None:
    """Tokens, ends, and log-probs to the last bit."""
    assert one.keys() == other.keys()
    for key, group in one.items():
        for a, b in zip(group, other[key], strict=True):
            assert (a.tokens, a.finish, a.logprobs.tobytes()) == (b.tokens, b.finish, b.logprobs.tobytes())
