"""Random models of a few thousand parameters, adapters that change them, and groups to train them on."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import LlamaConfig

from pudistill_cli.backend_api.contract import LoraSpec, ModelSpec, OptimizerSpec
from pudistill_torch import backend
from pudistill_torch.engine import TorchEngine
from pudistill_torch.learner import TorchLearner
from pudistill_torch.model import POLICY
from tests.backends import random_batches
from tests.backends.random_models import save_random

VOCABULARY = 64
STOP = (1, 2)


SIZES: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 128,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}


random_tokens = partial(random_batches.random_tokens, vocabulary=VOCABULARY)
random_groups = partial(random_batches.random_groups, vocabulary=VOCABULARY)
make_prompts = partial(random_batches.make_prompts, VOCABULARY)


def save_student(folder: Path, config: Any = None) -> Path:
    """A checkpoint of random weights, large enough that no distribution is flat."""
    return save_random(config or LlamaConfig(**SIZES, num_key_value_heads=2), folder, std=0.25)


def spec_of(folder: Path, **changes: Any) -> ModelSpec:
    settings: dict[str, Any] = {"context": 128, "device": "cpu", "dtype": "float32", "threads": 1}
    return ModelSpec(folder, STOP, **(settings | changes))


def open_engine(folder: Path, **changes: Any) -> TorchEngine:
    return backend.open(spec_of(folder, **changes))


def open_learner(folder: Path, engine: TorchEngine | None = None, seed: int = 0, **changes: Any) -> TorchLearner:
    """A learner whose adapter is not zero, unlike a fresh one."""
    learner = backend.learn(spec_of(folder, **changes), LoraSpec(r=4, alpha=8), OptimizerSpec(), engine)
    generator = torch.Generator().manual_seed(seed)
    for name, weight in learner.model.weights(POLICY).items():
        if "lora_B" in name:
            weight.data.copy_(torch.normal(0.0, 0.05, weight.shape, generator=generator))
    return learner


def gradients(learner: TorchLearner) -> dict[str, np.ndarray]:
    """The policy's gradients by name, which are cleared."""
    arrays = {}
    for name, parameter in learner.model._causal.named_parameters():
        if parameter.requires_grad:
            arrays[name] = parameter.grad.cpu().numpy().copy()
            parameter.grad = None
    return arrays


def row_logprobs(causal: Any, prompt: tuple[int, ...], answer: tuple[int, ...]) -> np.ndarray:
    """The textbook form: one row, all logits, log-softmax."""
    with torch.no_grad():
        logits = causal(torch.tensor([prompt + answer])).logits[0]
    logp = logits.log_softmax(-1)[len(prompt) - 1 : -1]
    return logp[torch.arange(len(answer)), torch.tensor(answer)].numpy()
