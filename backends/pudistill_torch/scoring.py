"""Log-probs of given tokens and the judge's read-out: what of `backend_api.batch_reading` torch computes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial

import torch
from torch import Tensor

from pudistill_cli.backend_api.batch_reading import read_choice_logits, read_logprobs
from pudistill_cli.types import Adapter, Continuations, Floats, Tokens
from pudistill_torch.branches import branch_states
from pudistill_torch.model import Model


@torch.inference_mode()
def logprobs(
    model: Model, requests: Sequence[Continuations], adapter: Adapter | None
) -> Iterator[tuple[int, tuple[Floats, ...]]]:
    """See `contract.Scoring.logprobs`."""

    def logprobs_of(states: Tensor, continuations: Sequence[Tokens]) -> Floats:
        return model.head.logprobs(*supervised(states, continuations)).float().cpu().numpy()

    yield from read_logprobs(requests, model.spec.token_budget, partial(branch_states, model, adapter), logprobs_of)


@torch.inference_mode()
def choice_logits(
    model: Model, requests: Sequence[Continuations], choices: Sequence[int], adapter: Adapter | None
) -> Iterator[tuple[int, Floats]]:
    """See `contract.Engine.choice_logits`."""
    columns = torch.tensor(choices, device=model.device)

    def logits_at(states: Tensor, ends: Sequence[int]) -> Floats:
        last = states[torch.arange(len(ends), device=model.device), torch.tensor(ends, device=model.device)]
        chunks = [model.head.logits(h)[:, columns] for h in last.split(model.head.chunk)]
        return torch.cat(chunks).float().cpu().numpy()

    states_of = partial(branch_states, model, adapter)
    yield from read_choice_logits(requests, choices, model.spec.token_budget, states_of, logits_at)


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
