"""From hidden states to logits and log-probs, in chunks: (batch, length, vocabulary) never exists in float32."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, TypeAlias, cast

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from pudistill_cli.errors import BackendError, DataError

CHUNK_ELEMENTS = 1 << 24
"""Logits held at once: 64 MiB in float32."""
Divergence: TypeAlias = Callable[[Tensor, Tensor], Tensor]
"""Of the policy's (N, V) log-probs and the judge's: (N,)."""


class Head:
    """The output embedding and what the architecture does to logits behind it."""

    def __init__(self, causal: Any) -> None:
        config = causal.config.get_text_config()
        self.linear = cast("nn.Module", causal.get_output_embeddings())
        self.scale: float = (
            (getattr(config, "logit_scale", None) or 1.0)  # Cohere
            * (getattr(config, "lm_head_multiplier", None) or 1.0)  # Falcon-H1
            / (getattr(config, "logits_scaling", None) or 1.0)  # Granite
        )
        self.softcap: float | None = getattr(config, "final_logit_softcapping", None)  # Gemma
        self.vocabulary: int = self.linear.weight.shape[0]  # type: ignore[union-attr]

    def logits(self, hidden: Tensor) -> Tensor:
        """(N, D) hidden states -> (N, V) logits, float32 at least."""
        logits = self.linear(hidden)
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32)) * self.scale
        return logits if self.softcap is None else torch.tanh(logits / self.softcap) * self.softcap

    def logprobs(self, hidden: Tensor, targets: Tensor) -> Tensor:
        """(N, D) hidden states, (N,) ids -> (N,) log-probs of the ids; recomputed in backward if in chunks."""
        return _in_chunks(self._gathered, self.chunk, hidden, targets)

    def distilled(self, hidden: Tensor, targets: Tensor, judged: Tensor) -> Tensor:
        """(2, N): log-probs as `logprobs`, and KL(policy || judge) of the next token over the whole vocabulary.

        `judged` (N, D) are the judge's hidden states at the same tokens. Two distributions are held at once.
        """
        return self._compared(_kl, hidden, targets, judged)

    def softened(self, hidden: Tensor, targets: Tensor, judged: Tensor) -> Tensor:
        """As `distilled`, with KL(judge || policy)."""
        return self._compared(_reverse_kl, hidden, targets, judged)

    @property
    def chunk(self) -> int:
        """Hidden states that are turned into logits together."""
        return max(1, CHUNK_ELEMENTS // self.vocabulary)

    def _gathered(self, hidden: Tensor, targets: Tensor) -> Tensor:
        logits = self.logits(hidden)
        return logits.gather(-1, targets[:, None])[:, 0] - logits.logsumexp(-1)

    def _compared(self, divergence: Divergence, hidden: Tensor, targets: Tensor, judged: Tensor) -> Tensor:
        return _in_chunks(partial(self._both, divergence), max(1, self.chunk // 2), hidden, targets, judged)

    def _both(self, divergence: Divergence, hidden: Tensor, targets: Tensor, judged: Tensor) -> Tensor:
        policy, judge = self.logits(hidden).log_softmax(-1), self.logits(judged).log_softmax(-1)  # (N, V)
        return torch.stack([policy.gather(-1, targets[:, None])[:, 0], divergence(policy, judge)])

    @torch.inference_mode()
    def verify(self, causal: Any, decoder: nn.Module) -> None:
        """Compare with the model's own logits, once, at load.

        Raises:
            BackendError: the architecture does something to its logits that is not known here.
            DataError: the weights give logits that are not finite.
        """
        ids = torch.arange(min(8, self.vocabulary), device=causal.device)[None]
        own = causal(input_ids=ids, use_cache=False).logits[0].float()
        if not own.isfinite().all():
            raise DataError("The student's logits are not finite: its weights are damaged.", "Fetch them again.")
        ours = self.logits(decoder(input_ids=ids, use_cache=False).last_hidden_state[0]).float()
        if not torch.allclose(own, ours, rtol=1e-2, atol=1e-2 * float(own.abs().max())):
            raise BackendError(
                f"Models of type {causal.config.model_type!r} change their logits in a way that is unknown here.",
                "Choose another student, or open an issue that names this model type.",
            )


def _kl(p: Tensor, q: Tensor) -> Tensor:
    """KL(p || q) of (N, V) log-probs: (N,)."""
    return (p.exp() * (p - q)).sum(-1)


def _reverse_kl(p: Tensor, q: Tensor) -> Tensor:
    """KL(q || p)."""
    return _kl(q, p)


def _in_chunks(function: Callable[..., Tensor], size: int, *arrays: Tensor) -> Tensor:
    """`function` on `size` rows of the arrays at a time, joined on the last axis; backward computes chunks again."""
    if len(arrays[0]) <= size:
        return function(*arrays)
    pieces = zip(*(array.split(size) for array in arrays), strict=True)
    if torch.is_grad_enabled():
        chunks = [checkpoint(function, *piece, use_reentrant=False, preserve_rng_state=False) for piece in pieces]
    else:
        chunks = [function(*piece) for piece in pieces]
    return torch.cat(cast("list[Tensor]", chunks), dim=-1)
