"""Batches in a seeded order, and the learning rate of each step: linear warm-up, then decay to a tenth."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TypeVar

import numpy as np

T = TypeVar("T")
FLOOR = 0.1


def learning_rate(peak: float, step: int, total: int, warmup: int, schedule: str = "linear") -> float:
    """The rate of optimizer step `step` (from 0) of `total`; `schedule` is "linear" or "constant"."""
    ramp = min(1.0, (step + 1) / max(warmup, 1))
    decay = 1.0 if schedule == "constant" else FLOOR + (1 - FLOOR) * (1 - step / max(total, 1))
    return peak * ramp * decay


def shuffled_batches(items: Sequence[T], size: int, *key: int) -> Iterator[tuple[T, ...]]:
    """The items in an order that depends on `key` alone, `size` at a time; the last batch may be smaller."""
    generator = np.random.Generator(np.random.Philox(np.random.SeedSequence(key)))
    order: list[int] = generator.permutation(len(items)).tolist()
    for start in range(0, len(items), size):
        yield tuple(items[i] for i in order[start : start + size])
