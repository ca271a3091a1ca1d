"""Requests for exports, adapters of any checkpoint, and what mlx-lm alone makes of an export."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
from mlx_lm.utils import load_model
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

from pudistill_cli.backend_api.exporter import ExportRequest, GenerationSettings
from pudistill_cli.models.tokenizer import StudentTokenizer
from pudistill_cli.types import Sampling

R, ALPHA = 4, 8.0
GENERATION = GenerationSettings(sampling=Sampling(max_new_tokens=24, temperature=0.5))
Array = NDArray[np.float64]


def save_adapter(checkpoint: Path, folder: Path, size: float = 0.06) -> Path:
    """A LoRA on every linear layer of the blocks, in PEFT's format, written by hand."""
    rng = np.random.default_rng(0)
    weights, modules = {}, set()
    for name, weight in mx.load(str(checkpoint / "model.safetensors")).items():
        if ".layers." in name and weight.ndim == 2:
            module = name.removesuffix(".weight")
            rows, columns = weight.shape
            a, b = rng.normal(scale=0.1, size=(R, columns)), rng.normal(scale=size, size=(rows, R))
            weights[f"base_model.model.{module}.lora_A.weight"] = a.astype(np.float32)
            weights[f"base_model.model.{module}.lora_B.weight"] = b.astype(np.float32)
            modules.add(module.rsplit(".", 1)[-1])
    config = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "r": R, "lora_alpha": ALPHA, "bias": "none"}
    folder.mkdir(parents=True)
    (folder / "adapter_config.json").write_text(json.dumps(config | {"target_modules": sorted(modules)}))
    save_file(weights, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    return folder


def request(
    out: Path, student: Path, adapter: Path, variant: str, generation: GenerationSettings = GENERATION
) -> ExportRequest:
    out.mkdir()
    stops = StudentTokenizer.load(student, format=generation.format).stop_tokens
    return ExportRequest(student, student, adapter, "mlx", variant, out, "student", 256, stops, (), generation)


def added(adapter: Path, tensor: str) -> NDArray[np.float32]:
    """(rows, columns) of alpha / r B A."""
    parts, key = load_file(adapter / "adapter_model.safetensors"), f"base_model.model.{tensor.removesuffix('.weight')}"
    return ALPHA / R * parts[f"{key}.lora_B.weight"] @ parts[f"{key}.lora_A.weight"]


def of_mlx_lm(folder: Path, tokens: tuple[int, ...]) -> Array:
    """(T, V) log-probs by mlx-lm's own loading, in float32."""
    model: Any
    model, _ = load_model(folder)
    model.set_dtype(mx.float32)
    return normalised(np.array(model(mx.array([tokens]))[0].astype(mx.float32)))


def normalised(logits: NDArray[Any]) -> Array:
    wide = logits.astype(np.float64)
    return wide - np.logaddexp.reduce(wide, axis=-1, keepdims=True)


def mean_kl(p: Array, q: Array) -> float:
    """Mean over positions of KL(p || q), in nats."""
    return float((np.exp(p) * (p - q)).sum(-1).mean())


def random_tokens(vocabulary: int, count: int = 48) -> tuple[int, ...]:
    return tuple(np.random.default_rng(1).integers(3, vocabulary, count).tolist())
