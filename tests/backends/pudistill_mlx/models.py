"""Random models of the architectures that MLX is held to, sharp enough that a wrong reading of a config shows."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import AutoModelForCausalLM

from pudistill_cli.backend_api.contract import ModelSpec
from pudistill_mlx import backend
from pudistill_mlx.engine import MlxEngine
from tests.backends import random_batches, random_models
from tests.backends.random_models import Kind

_LISTED = random_models.MODELS
MODELS: dict[str, Kind] = {name: kind for name, kind in _LISTED.items() if name != "phi3-long"} | {
    # The square root of 96 is no bfloat16, that of 64 is.
    "gemma3": Kind("gemma3_text", "spm-no-prefix", {**_LISTED["gemma3"].settings, "hidden_size": 96}),
    "phi3": Kind("phi3", "spm", {**_LISTED["phi3"].settings, "sliding_window": 40}),
    "mistral": Kind("mistral", "spm", {**_LISTED["mistral"].settings, "sliding_window": 40}),
}
random_tokens = partial(random_batches.random_tokens, vocabulary=random_models.SPM_SIZE)
LENGTH = 100
"""Longer than every sliding window but Gemma 2's, which mlx-lm leaves out."""


def save_model(name: str, folder: Path) -> Path:
    """The checkpoint with its tokenizer."""
    return random_models.save_model(name, folder, MODELS[name])


def context_of(name: str) -> int:
    return MODELS[name].settings["sliding_window"] if name == "gemma2" else 256


def open_engine(folder: Path, **changes: Any) -> MlxEngine:
    settings: dict[str, Any] = {"context": 256, "device": "cpu", "dtype": "float32"}
    return backend.open(ModelSpec(folder, (2,), **(settings | changes)))


class Textbook:
    """transformers in float32: one sequence, all logits, log-softmax."""

    def __init__(self, folder: Path, adapter: Path | None = None) -> None:
        model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager")
        if adapter is not None:
            from peft import PeftModel

            model = PeftModel.from_pretrained(model, str(adapter))
        self._model = model.eval()

    def distributions(self, tokens: tuple[int, ...]) -> NDArray[np.float32]:
        """(T, V)"""
        with torch.no_grad():
            return self._model(torch.tensor([tokens])).logits[0].log_softmax(-1).numpy()

    def of_answer(self, prompt: tuple[int, ...], answer: tuple[int, ...]) -> NDArray[np.float32]:
        """(T,) of the answer's tokens."""
        return self.distributions(prompt + answer)[len(prompt) - 1 + np.arange(len(answer)), list(answer)]
