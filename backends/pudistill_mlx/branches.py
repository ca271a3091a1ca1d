"""Hidden states of continuations behind shared prefixes: a prefix is computed once, for scoring and training."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import mlx.core as mx

from pudistill_cli.backend_api.batch_reading import check_prefixes
from pudistill_cli.backend_api.micro_batching import Branch
from pudistill_cli.types import Tokens
from pudistill_mlx.lora import LowRanks
from pudistill_mlx.model import Model
from pudistill_mlx.padding import padded_left, padded_right


def branch_states(
    model: Model, adapter: LowRanks, prefixes: Sequence[Tokens], branches: Sequence[Branch], rows: int
) -> Iterator[tuple[Sequence[Branch], mx.array]]:
    """Yield branches, at most `rows` of them together, with their (R, 1 + W, D) hidden states.

    State 0 is that behind the prefix, state t that behind the t-th token; a shorter branch has states without
    meaning at its end. Nothing is evaluated here, so that it can be differentiated with respect to the adapter.

    Raises:
        DataError: a prefix is empty.
    """
    check_prefixes(prefixes)
    batch = padded_left(prefixes)
    cache = model.empty_cache(batch.padding)
    before = model.hidden(batch.ids, adapter, cache)[:, -1:]  # (B, 1, D)
    for first in range(0, len(branches), rows):
        chunk = branches[first : first + rows]
        owner = [branch.owner for branch in chunk]
        states = before[mx.array(owner)]  # (R, 1, D)
        ids = padded_right([branch.tokens for branch in chunk])
        if ids.shape[1]:
            behind = model.hidden(ids, adapter, cache.rows(owner))
            states = mx.concatenate([states, behind], axis=1)
        yield chunk, states
