"""The student in float64, an adapter merged into its weights: the third implementation, which shares no code."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file

Array = NDArray[np.float64]


class Reference:
    """A Llama in NumPy, one sequence at a time, every position from the start."""

    def __init__(self, checkpoint: Path, adapter: Path | None = None) -> None:
        self.config = json.loads((checkpoint / "config.json").read_text())
        self.weights = {k: v.astype(np.float64) for k, v in load_file(checkpoint / "model.safetensors").items()}
        if adapter is not None:
            settings = json.loads((adapter / "adapter_config.json").read_text())
            parts = load_file(adapter / "adapter_model.safetensors")
            for key in [k for k in parts if ".lora_A." in k]:
                a, b = parts[key].astype(np.float64), parts[key.replace("lora_A", "lora_B")].astype(np.float64)
                name = key.removeprefix("base_model.model.").replace(".lora_A", "")
                self.weights[name] += settings["lora_alpha"] / settings["r"] * b @ a

    def logits(self, tokens: tuple[int, ...]) -> Array:
        """(T, V)"""
        w, c = self.weights, self.config
        h = w["model.embed_tokens.weight"][list(tokens)]  # (T, D)
        for n in range(c["num_hidden_layers"]):
            block = f"model.layers.{n}."
            h = h + self._attention(self._norm(h, f"{block}input_layernorm.weight"), f"{block}self_attn.")
            x = self._norm(h, f"{block}post_attention_layernorm.weight")
            gate, up = (x @ w[f"{block}mlp.{part}_proj.weight"].T for part in ("gate", "up"))
            h = h + (gate / (1 + np.exp(-gate)) * up) @ w[f"{block}mlp.down_proj.weight"].T
        return self._norm(h, "model.norm.weight") @ w["model.embed_tokens.weight"].T

    def logprobs(self, tokens: tuple[int, ...]) -> Array:
        """(T, V)"""
        logits = self.logits(tokens)
        return logits - np.logaddexp.reduce(logits, axis=-1, keepdims=True)

    def of_answer(self, prompt: tuple[int, ...], answer: tuple[int, ...]) -> Array:
        """(T,) of the answer's tokens."""
        return self.logprobs(prompt + answer)[len(prompt) - 1 + np.arange(len(answer)), list(answer)]

    def _norm(self, x: Array, name: str) -> Array:
        return x / np.sqrt((x**2).mean(-1, keepdims=True) + self.config["rms_norm_eps"]) * self.weights[name]

    def _attention(self, x: Array, name: str) -> Array:
        heads, length = self.config["num_attention_heads"], len(x)
        q, k, v = (
            (x @ self.weights[f"{name}{part}_proj.weight"].T).reshape(length, heads, -1).swapaxes(0, 1)
            for part in "qkv"
        )  # (H, T, d)
        q, k = self._rotated(q), self._rotated(k)
        scores = q @ k.swapaxes(1, 2) / math.sqrt(q.shape[-1])
        scores = np.where(np.tri(length, dtype=bool), scores, -np.inf)
        p = np.exp(scores - scores.max(-1, keepdims=True))
        mixed = (p / p.sum(-1, keepdims=True)) @ v
        return mixed.swapaxes(0, 1).reshape(length, -1) @ self.weights[f"{name}o_proj.weight"].T

    def _rotated(self, x: Array) -> Array:
        """Element i of a head turns with element i + d / 2, by position * theta^(-2 i / d) (Su et al. 2021)."""
        half = x.shape[-1] // 2
        theta = self.config["rope_parameters"]["rope_theta"]
        angles = np.arange(x.shape[1])[:, None] * theta ** (-np.arange(half) / half)
        first, second = x[..., :half], x[..., half:]
        cos, sin = np.cos(angles), np.sin(angles)
        return np.concatenate([first * cos - second * sin, second * cos + first * sin], -1)
