"""The quickstart's student under both learners: the same adapter, rows and groups, and what is compared."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from tests.backends import random_batches
from tests.backends.random_batches import Arrays
from tests.tiny import STUDENT

pytest.importorskip("mlx_lm", reason="needs the MLX backend: pip install 'pudistill[mlx]'")

import mlx.core as mx
from mlx.utils import tree_flatten

from pudistill_cli.backend_api.contract import LoraSpec, ModelSpec, OptimizerSpec, Row, SftBatch
from pudistill_mlx import backend
from pudistill_mlx.learner import MlxLearner

STOP, VOCABULARY = 1, 768
LORA = LoraSpec(r=4, alpha=8.0)
SFT = SftBatch(
    (
        Row((3, 4, 5), (6, 7, STOP)),
        Row((8, 9), (10, STOP)),
        Row((11, 12, 13, 14), (15, 16, 17, STOP)),
    )
)
random_tokens = partial(random_batches.random_tokens, vocabulary=VOCABULARY)
random_groups = partial(random_batches.random_groups, vocabulary=VOCABULARY, end=(STOP,))
make_prompts = partial(random_batches.make_prompts, VOCABULARY)


def spec_of(folder: Path = STUDENT, **changes: Any) -> ModelSpec:
    settings: dict[str, Any] = {"context": 128, "device": "cpu", "dtype": "float32"}
    return ModelSpec(folder, (STOP,), **(settings | changes))


def fresh_learner(folder: Path = STUDENT, lora: LoraSpec = LORA, **changes: Any) -> MlxLearner:
    """A learner as a run begins with: its adapter changes nothing."""
    return backend.learn(spec_of(folder, **changes), lora, OptimizerSpec(), None)


def open_learner(folder: Path = STUDENT, seed: int = 0, **changes: Any) -> MlxLearner:
    """A learner whose adapter is not zero, where half of the gradient would be."""
    learner = fresh_learner(folder, **changes)
    rng = np.random.default_rng(seed)
    for name, array in learner._policy.items():
        if name.endswith(".b"):
            learner._policy[name] = mx.array(rng.normal(scale=0.02, size=array.shape).astype(np.float32))
    return learner


def save_llama(folder: Path, *, layers: int = 2, width: int = 64, heads: int = 4, feed_forward: int = 128) -> Path:
    """A Llama of random weights in widths that can be quantised, written without torch."""
    config = {
        "model_type": "llama", "architectures": ["LlamaForCausalLM"], "vocab_size": VOCABULARY, "hidden_size": width,
        "intermediate_size": feed_forward, "num_hidden_layers": layers, "num_attention_heads": heads,
        "num_key_value_heads": heads, "max_position_embeddings": 1024, "rms_norm_eps": 1e-5, "rope_theta": 10000.0,
        "tie_word_embeddings": True,
    }  # fmt: skip
    shapes = {"model.embed_tokens": (VOCABULARY, width), "model.norm": (width,)}
    for block in (f"model.layers.{n}" for n in range(layers)):
        shapes |= {f"{block}.{norm}_layernorm": (width,) for norm in ("input", "post_attention")}
        shapes |= {f"{block}.self_attn.{part}_proj": (width, width) for part in "qkvo"}
        shapes |= {f"{block}.mlp.{part}_proj": (feed_forward, width) for part in ("gate", "up")}
        shapes[f"{block}.mlp.down_proj"] = (width, feed_forward)
    rng = np.random.default_rng(0)
    weights = {
        f"{name}.weight": (rng.normal(scale=0.15, size=shape) if len(shape) > 1 else np.ones(shape)).astype(np.float32)
        for name, shape in shapes.items()
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def policy_of(learner: MlxLearner) -> Arrays:
    """The trained arrays: `<layer>.a` and `<layer>.b`."""
    return {name: np.array(array) for name, array in learner._policy.items()}


def gradient_of(learner: MlxLearner, batch: Any) -> tuple[dict[str, float], Arrays]:
    """Metrics and gradient of a batch, no step taken."""
    total = learner._gradient(batch)
    return total.metrics, {name: np.array(gradient) for name, gradient in total.gradient.items()}


def base_of(learner: MlxLearner) -> Arrays:
    """A copy of every array of the base."""
    flat = tree_flatten(learner.model.causal.parameters())
    return {name: np.array(array.astype(_readable(array))) for name, array in flat}


def _readable(array: mx.array) -> mx.Dtype:
    """NumPy has no bfloat16; float32 holds each of its numbers."""
    return mx.float32 if array.dtype == mx.bfloat16 else array.dtype


def equal(one: Arrays, other: Arrays) -> bool:
    """To the bit."""
    return one.keys() == other.keys() and all(np.array_equal(one[name], other[name]) for name in one)
