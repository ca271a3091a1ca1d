"""Sampling K candidates a prompt (pudistill_cli/backend_api/continuous_batching.py)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from pudistill_cli.backend_api.continuous_batching import sample_in_flight
from pudistill_cli.types import Adapter, Candidate, PromptTokens, Sampling
from pudistill_torch.decoding import Decoding, start
from pudistill_torch.model import Model


def sample(
    model: Model, prompts: Sequence[PromptTokens], k: int, sampling: Sampling, adapter: Adapter | None
) -> Iterator[tuple[int, tuple[Candidate, ...]]]:
    """See `contract.Engine.sample`; DataError if a prompt leaves no room for an answer."""
    return sample_in_flight(
        model.spec, prompts, k, lambda chosen: start(model, chosen, k, sampling, adapter), Decoding.joined
    )
