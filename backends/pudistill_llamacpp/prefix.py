"""A prefix that sequences share, computed once and always in the same pieces."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from pudistill_cli.types import Floats
from pudistill_llamacpp.native.context import Context

PREFILL = 512
"""Tokens in one pass. Fixed, because the result depends on it in the last digits."""


def prefill(context: Context, sequence: int, tokens: Sequence[int]) -> Floats:
    """Begin a sequence with `tokens`: (1, V) logits of the one after them, a view until the next `decode`.

    Nothing else is in the batches, so that nothing else can change the result.
    """
    context.remove(sequence)
    ids, length = np.asarray(tokens), len(tokens)
    logits = np.empty((0, context.n_vocab), np.float32)
    for start in range(0, length, PREFILL):
        at = np.arange(start, min(start + PREFILL, length))
        logits = context.decode(ids[at], at, sequence, at == length - 1)
    return logits
