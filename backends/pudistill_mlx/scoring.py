"""Log-probs of given tokens and the judge's read-out, many small requests to a forward pass."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import mlx.core as mx
import numpy as np

from pudistill_cli.backend_api.micro_batching import request_batches, request_length
from pudistill_cli.types import Adapter, Continuations, Floats, Tokens
from pudistill_mlx.branches import Branch, branch_states
from pudistill_mlx.log_softmax import log_softmax
from pudistill_mlx.model import Model

Read = Callable[[Sequence[tuple[int, int]], mx.array], list[Floats]]
"""From the (request, number) of some branches and their states to one result each."""


def logprobs(
    model: Model, requests: Sequence[Continuations], adapter: Adapter | None
) -> Iterator[tuple[int, tuple[Floats, ...]]]:
    """See `contract.Scoring.logprobs`."""

    def read(names: Sequence[tuple[int, int]], states: mx.array) -> list[Floats]:
        wanted = [requests[i].continuations[n] for i, n in names]
        hidden, ids = supervised(states, wanted)
        size = model.head.chunk
        pieces = [np.array(model.head.logprobs(h, ids[i : i + size])) for i, h in _split(hidden, size)]
        flat = np.concatenate(pieces) if pieces else np.zeros(0, np.float32)
        return np.split(flat, np.cumsum([len(tokens) for tokens in wanted])[:-1])

    # The last token of a continuation is predicted, never read.
    for index, found in _read_branches(model, requests, adapter, lambda tokens: tokens[:-1], read):
        yield index, tuple(found)


def choice_logits(
    model: Model, requests: Sequence[Continuations], choices: Sequence[int], adapter: Adapter | None
) -> Iterator[tuple[int, Floats]]:
    """See `contract.Engine.choice_logits`."""
    columns = mx.array(list(choices))

    def read(names: Sequence[tuple[int, int]], states: mx.array) -> list[Floats]:
        ends = [len(requests[i].continuations[n]) for i, n in names]
        last = states[mx.arange(len(names)), mx.array(ends)]
        chunks = [np.array(model.head.logits(h)[:, columns]) for _, h in _split(last, model.head.chunk)]
        return list(np.concatenate(chunks))

    for index, found in _read_branches(model, requests, adapter, lambda tokens: tokens, read):
        yield index, np.stack(found) if found else np.zeros((0, len(choices)), np.float32)


def distributions(model: Model, tokens: Sequence[int], last_n: int, adapter: Adapter | None) -> Floats:
    """See `contract.Engine.distributions`."""
    hidden = model.hidden(mx.array([list(tokens)]), model.adapter(adapter))[0, -last_n:]
    return np.concatenate([np.array(log_softmax(model.head.logits(h))) for _, h in _split(hidden, model.head.chunk)])


def supervised(states: mx.array, completions: Sequence[Tokens]) -> tuple[mx.array, mx.array]:
    """From (R, 1 + W, D) states to the (N, D) that predict the completions' tokens, and their (N,) ids, row by row."""
    width = states.shape[1]
    at = [row * width + t for row, tokens in enumerate(completions) for t in range(len(tokens))]
    targets = [token for tokens in completions for token in tokens]
    flat = states.reshape(-1, states.shape[-1])
    return flat[mx.array(at, mx.int32)], mx.array(targets, mx.int32)


def _split(hidden: mx.array, size: int) -> list[tuple[int, mx.array]]:
    """Pieces of at most `size` rows with the index of their first one."""
    return [(i, hidden[i : i + size]) for i in range(0, len(hidden), size)]


def _read_branches(
    model: Model,
    requests: Sequence[Continuations],
    adapter: Adapter | None,
    fed: Callable[[Tokens], Tokens],
    read: Read,
) -> Iterator[tuple[int, list[Floats]]]:
    """Yield (index, the results of its continuations) batch by batch, longest first."""
    for batch in request_batches(requests, model.spec.token_budget):
        found = _read_batch(model, requests, batch, adapter, fed, read)
        yield from zip(batch, found, strict=True)


def _read_batch(
    model: Model,
    requests: Sequence[Continuations],
    batch: Sequence[int],
    adapter: Adapter | None,
    fed: Callable[[Tokens], Tokens],
    read: Read,
) -> list[list[Floats]]:
    names = [(i, n) for i in batch for n in range(len(requests[i].continuations))]
    owners = {i: owner for owner, i in enumerate(batch)}
    branches = [Branch(owners[i], fed(requests[i].continuations[n])) for i, n in names]
    found: dict[int, list[Floats]] = {i: [] for i in batch}
    rows = max(1, model.spec.token_budget // max(request_length(requests[i]) for i in batch))
    prefixes = [requests[i].prefix for i in batch]
    done = 0
    for chunk, states in branch_states(model, prefixes, branches, model.adapter(adapter), rows):
        here = names[done : done + len(chunk)]
        done += len(chunk)
        for (i, _), result in zip(here, read(here, states), strict=True):
            found[i].append(result)
    return [found[i] for i in batch]
