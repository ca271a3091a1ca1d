"""Hidden states of continuations behind shared prefixes: a prefix is computed once, for scoring and training."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from pudistill_cli.backend_api.batch_reading import check_prefixes
from pudistill_cli.backend_api.micro_batching import Branch
from pudistill_cli.types import Adapter, Tokens
from pudistill_torch.cache import RowCache
from pudistill_torch.model import Model
from pudistill_torch.padding import attended, padded_left, padded_right


def branch_states(
    model: Model, adapter: Adapter | None, prefixes: Sequence[Tokens], branches: Sequence[Branch], rows: int
) -> Iterator[tuple[Sequence[Branch], Tensor]]:
    """Yield branches, at most `rows` of them together, with their (R, 1 + W, D) hidden states.

    State 0 is that behind the prefix, state t that behind the t-th token; a shorter branch has states without
    meaning at its end. Differentiable where gradients are enabled.

    Raises:
        DataError: a prefix is empty.
    """
    check_prefixes(prefixes)
    batch = padded_left(prefixes, model.device)
    columns = batch.ids.shape[1]
    cache = RowCache()
    mask = attended(batch.padding, columns)
    before = model.hidden(batch.ids, adapter, cache=cache, positions=batch.positions, mask=mask)[:, -1:]
    for first in range(0, len(branches), rows):
        chunk = branches[first : first + rows]
        owner = torch.tensor([branch.owner for branch in chunk], device=model.device)
        states = before.index_select(0, owner)  # (R, 1, D)
        ids = padded_right([branch.tokens for branch in chunk], model.device)
        width = ids.shape[1]
        if width:
            steps = torch.arange(width, device=model.device)
            positions = (batch.lengths[owner][:, None] + steps).clamp(max=model.spec.context - 1)
            mask = attended(batch.padding[owner], columns + width)
            behind = model.hidden(ids, adapter, cache=cache.rows(owner), positions=positions, mask=mask)
            states = torch.cat([states, behind], dim=1)
        yield chunk, states
