"""Next-token log-probs of a GGUF file in llama.cpp and of a checkpoint in transformers, and how far they are apart."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import AutoModelForCausalLM

from pudistill_llamacpp.native.context import Context, ContextSettings
from pudistill_llamacpp.native.model import Model


def of_gguf(path: Path, tokens: NDArray[np.int64], n_ctx: int = 256) -> NDArray[np.float64]:
    """(T, V), with a float32 cache and without flash attention: nothing is rounded but float32 sums."""
    model = Model.open(path)
    context = Context(model, ContextSettings(n_ctx=n_ctx, n_batch=n_ctx, kv="f32", flash=False, threads=1))
    try:
        return normalised(context.decode(tokens, np.arange(len(tokens)), 0))
    finally:
        context.close()
        model.close()


def of_checkpoint(folder: Path, tokens: NDArray[np.int64]) -> NDArray[np.float64]:
    """(T, V) in float32."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()
    with torch.no_grad():
        return normalised(model(torch.from_numpy(tokens)[None]).logits[0].numpy())


def normalised(logits: NDArray[np.float32]) -> NDArray[np.float64]:
    wide = logits.astype(np.float64)
    return wide - np.logaddexp.reduce(wide, axis=-1, keepdims=True)


def mean_kl(p: NDArray[np.float64], q: NDArray[np.float64]) -> float:
    """Mean over positions of KL(p || q), in nats."""
    return float((np.exp(p) * (p - q)).sum(-1).mean())


def random_tokens(vocabulary: int, count: int = 96) -> NDArray[np.int64]:
    return np.random.default_rng(0).integers(3, vocabulary, count)
