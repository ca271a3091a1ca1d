"""Token sequences of different lengths as arrays."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import mlx.core as mx
import numpy as np


@dataclass(frozen=True, slots=True)
class PaddedLeft:
    """Prompts, padded on the left: all end at the same column, as a cache needs it."""

    ids: mx.array  # (B, L)
    padding: list[int]
    """Columns before a row's first token."""


def padded_left(sequences: Sequence[Sequence[int]]) -> PaddedLeft:
    """Pad on the left."""
    longest = max(map(len, sequences))
    padding = [longest - len(s) for s in sequences]
    rows = [[0] * before + list(s) for before, s in zip(padding, sequences, strict=True)]
    return PaddedLeft(mx.array(np.array(rows, np.int32)), padding)


def padded_right(sequences: Sequence[Sequence[int]]) -> mx.array:
    """(B, L) ids; what follows a sequence cannot change it, so no mask is needed."""
    longest = max(map(len, sequences))
    rows = [list(s) + [0] * (longest - len(s)) for s in sequences]
    return mx.array(np.array(rows, np.int32).reshape(len(rows), longest))
