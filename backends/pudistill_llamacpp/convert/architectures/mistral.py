"""Mistral 7B and its kin: Llama to llama.cpp, which has no sliding window there."""

from __future__ import annotations

from dataclasses import replace

from pudistill_llamacpp.convert.architectures import llama
from pudistill_llamacpp.convert.hyperparameters import Entry, Hyperparameters, uint32

_CONTEXT = "{arch}.context_length"


def entries(hyper: Hyperparameters) -> list[Entry]:
    """Llama's, with a context no longer than the window: up to there the two attend to the same tokens."""
    window = hyper.get("sliding_window")
    longest = hyper.integer("max_position_embeddings")
    context = uint32(_CONTEXT, min(longest, window) if isinstance(window, int) else longest)
    return [context if e.key == _CONTEXT else e for e in llama.entries(hyper)]


ARCHITECTURE = replace(
    llama.ARCHITECTURE,
    model_type="mistral",
    transformers_class="MistralForCausalLM",
    entries=entries,
    defaults={"rms_norm_eps": 1e-6, "max_position_embeddings": 131072},
)
