"""Log-probs of given tokens and the judge's read-out: what of `backend_api.batch_reading` MLX computes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial

import mlx.core as mx
import numpy as np

from pudistill_cli.backend_api.batch_reading import read_choice_logits, read_logprobs
from pudistill_cli.types import Adapter, Continuations, Floats, Tokens
from pudistill_mlx.branches import branch_states
from pudistill_mlx.log_softmax import log_softmax
from pudistill_mlx.model import Model


def logprobs(
    model: Model, requests: Sequence[Continuations], adapter: Adapter | None
) -> Iterator[tuple[int, tuple[Floats, ...]]]:
    """See `contract.Scoring.logprobs`."""

    def logprobs_of(states: mx.array, continuations: Sequence[Tokens]) -> Floats:
        hidden, ids = supervised(states, continuations)
        size = model.head.chunk
        pieces = [np.array(model.head.logprobs(h, ids[i : i + size])) for i, h in _split(hidden, size)]
        return np.concatenate(pieces) if pieces else np.zeros(0, np.float32)

    states_of = partial(branch_states, model, model.adapter(adapter))
    yield from read_logprobs(requests, model.spec.token_budget, states_of, logprobs_of)


def choice_logits(
    model: Model, requests: Sequence[Continuations], choices: Sequence[int], adapter: Adapter | None
) -> Iterator[tuple[int, Floats]]:
    """See `contract.Engine.choice_logits`."""
    columns = mx.array(list(choices))

    def logits_at(states: mx.array, ends: Sequence[int]) -> Floats:
        last = states[mx.arange(len(ends)), mx.array(list(ends))]
        return np.concatenate([np.array(model.head.logits(h)[:, columns]) for _, h in _split(last, model.head.chunk)])

    states_of = partial(branch_states, model, model.adapter(adapter))
    yield from read_choice_logits(requests, choices, model.spec.token_budget, states_of, logits_at)


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
