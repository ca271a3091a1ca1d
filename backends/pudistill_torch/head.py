"""From hidden states to logits and log-probs, in chunks: (batch, length, vocabulary) never exists in float32."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from pudistill_cli.errors import BackendError, DataError

CHUNK_ELEMENTS = 1 << 24
"""Logits held at once: 64 MiB in float32."""


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
        size = self.chunk
        if len(targets) <= size:
            return self._gathered(hidden, targets)
        pieces = zip(hidden.split(size), targets.split(size), strict=True)
        if torch.is_grad_enabled():
            found = [checkpoint(self._gathered, h, t, use_reentrant=False, preserve_rng_state=False) for h, t in pieces]
        else:
            found = [self._gathered(h, t) for h, t in pieces]
        return torch.cat(cast("list[Tensor]", found))

    @property
    def chunk(self) -> int:
        """Hidden states that are turned into logits together."""
        return max(1, CHUNK_ELEMENTS // self.vocabulary)

    def _gathered(self, hidden: Tensor, targets: Tensor) -> Tensor:
        logits = self.logits(hidden)
        return logits.gather(-1, targets[:, None])[:, 0] - logits.logsumexp(-1)

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
