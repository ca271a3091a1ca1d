"""Log-probs of given tokens and the judge's read-out, many small requests to a forward pass."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from pudistill_cli.backend_api.micro_batching import request_batches, request_length
from pudistill_cli.types import Adapter, Continuations, Floats, Tokens
from pudistill_torch.branches import Branch, branch_states
from pudistill_torch.model import Model

T = TypeVar("T")
Read = Callable[[Sequence[tuple[int, int]], Tensor], list[Floats]]
"""From the (request, number) of some branches and their states to one result each."""


def logprobs(
    model: Model, requests: Sequence[Continuations], adapter: Adapter | None
) -> Iterator[tuple[int, tuple[Floats, ...]]]:
    """See `contract.Scoring.logprobs`."""

    def read(names: Sequence[tuple[int, int]], states: Tensor) -> list[Floats]:
        wanted = [requests[i].continuations[n] for i, n in names]
        flat = model.head.logprobs(*supervised(states, wanted)).float().cpu().numpy()
        return np.split(flat, np.cumsum([len(tokens) for tokens in wanted])[:-1])

    # The last token of a continuation is predicted, never read.
    for index, found in _read_branches(model, requests, adapter, lambda tokens: tokens[:-1], read):
        yield index, tuple(found)


def choice_logits(
    model: Model, requests: Sequence[Continuations], choices: Sequence[int], adapter: Adapter | None
) -> Iterator[tuple[int, Floats]]:
    """See `contract.Engine.choice_logits`."""
    columns = torch.tensor(choices, device=model.device)

    def read(names: Sequence[tuple[int, int]], states: Tensor) -> list[Floats]:
        ends = torch.tensor([len(requests[i].continuations[n]) for i, n in names], device=model.device)
        last = states[torch.arange(len(names), device=model.device), ends]
        chunks = [model.head.logits(h)[:, columns] for h in last.split(model.head.chunk)]
        return list(torch.cat(chunks).float().cpu().numpy())

    for index, found in _read_branches(model, requests, adapter, lambda tokens: tokens, read):
        yield index, np.stack(found) if found else np.zeros((0, len(choices)), np.float32)


@torch.inference_mode()
def distributions(model: Model, tokens: Sequence[int], last_n: int, adapter: Adapter | None) -> Floats:
    """See `contract.Engine.distributions`."""
    ids = torch.tensor([list(tokens)], device=model.device)
    hidden = model.hidden(ids, adapter)[0, -last_n:]
    chunks = [model.head.logits(h).log_softmax(-1).float().cpu() for h in hidden.split(model.head.chunk)]
    return torch.cat(chunks).numpy()


def supervised(states: Tensor, completions: Sequence[Tokens]) -> tuple[Tensor, Tensor]:
    """From (R, 1 + W, D) states to the (N, D) that predict the completions' tokens, and their (N,) ids, row by row."""
    lengths = torch.tensor([len(tokens) for tokens in completions], device=states.device)
    real = torch.arange(states.shape[1], device=states.device) < lengths[:, None]
    targets = [token for tokens in completions for token in tokens]
    return states[real], torch.tensor(targets, dtype=torch.long, device=states.device)


def _read_branches(
    model: Model,
    requests: Sequence[Continuations],
    adapter: Adapter | None,
    fed: Callable[[Tokens], Tokens],
    read: Read,
) -> Iterator[tuple[int, list[Floats]]]:
    """Yield (index, the results of its continuations) request by request, longest first."""
    for batch in request_batches(requests, model.spec.token_budget):
        found = _read_batch(model, requests, batch, adapter, fed, read)
        yield from zip(batch, found, strict=True)


@torch.inference_mode()
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
    done = 0
    for chunk, states in branch_states(model, [requests[i].prefix for i in batch], branches, adapter, rows):
        here = names[done : done + len(chunk)]
        done += len(chunk)
        for (i, _), result in zip(here, read(here, states), strict=True):
            found[i].append(result)
    return [found[i] for i in batch]
