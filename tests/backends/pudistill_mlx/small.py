"""The quickstart's student under both learners: the same adapter, rows and groups, and what is compared."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from safetensors.numpy import save_file

from tests.tiny import STUDENT

pytest.importorskip("mlx_lm", reason="needs the MLX backend: pip install 'pudistill[mlx]'")

import mlx.core as mx
from mlx.utils import tree_flatten

from pudistill_cli.backend_api.contract import Learner, LoraSpec, ModelSpec, OptimizerSpec, Row, SftBatch, TrainGroup
from pudistill_cli.method.preferences import Targets
from pudistill_cli.types import Continuations
from pudistill_mlx import backend
from pudistill_mlx.learner import MlxLearner

STOP = 1
LORA = LoraSpec(r=4, alpha=8.0)
SFT = SftBatch(
    (
        Row((3, 4, 5), (6, 7, STOP)),
        Row((8, 9), (10, STOP)),
        Row((11, 12, 13, 14), (15, 16, 17, STOP)),
    )
)
Arrays = dict[str, NDArray[Any]]


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
        "model_type": "llama", "architectures": ["LlamaForCausalLM"], "vocab_size": 768, "hidden_size": width,
        "intermediate_size": feed_forward, "num_hidden_layers": layers, "num_attention_heads": heads,
        "num_key_value_heads": heads, "max_position_embeddings": 1024, "rms_norm_eps": 1e-5, "rope_theta": 10000.0,
        "tie_word_embeddings": True,
    }  # fmt: skip
    shapes = {"model.embed_tokens": (768, width), "model.norm": (width,)}
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


def random_tokens(rng: np.random.Generator, length: int, vocabulary: int = 768) -> tuple[int, ...]:
    return tuple(int(token) for token in rng.integers(3, vocabulary, length))


def random_groups(
    learner: Learner, seed: int = 0, sizes: tuple[int, ...] = (3, 5, 2), vocabulary: int = 768
) -> tuple[TrainGroup, ...]:
    """Groups of uneven size, prompt and length, log-probs by the bare base; the first row of a big one is no member."""
    rng = np.random.default_rng(seed)
    prompts = [random_tokens(rng, int(rng.integers(3, 12)), vocabulary) for _ in sizes]
    answers = [
        tuple((*random_tokens(rng, int(rng.integers(1, 9)), vocabulary), STOP) for _ in range(size)) for size in sizes
    ]
    requests = [Continuations(p, a) for p, a in zip(prompts, answers, strict=True)]
    scored = dict(learner.logprobs(requests, None))
    return tuple(
        TrainGroup(tuple(Row(p, a) for a in answers[g]), scored[g], scored[g], random_targets(rng, sizes[g]))
        for g, p in enumerate(prompts)
    )


def random_targets(rng: np.random.Generator, size: int) -> Targets:
    """Targets of a group whose last row is the anchor, chosen over the first."""
    member, anchor, pair = np.ones(size), np.zeros(size), np.zeros((1, size))
    member[0] = size < 4
    anchor[-1] = pair[0, -1] = 1
    pair[0, 0] = -1
    label = rng.dirichlet(np.ones(size)) * member
    advantage = rng.normal(size=size) * member
    return Targets(
        member=member,
        anchor=anchor,
        slots=np.ones(size),
        label=label / label.sum(),
        advantage=advantage,
        posterior=np.linspace(0.2, 1, size),
        pairs=pair,
        pair_weight=rng.uniform(size=1),
        pair_smoothing=rng.uniform(0, 0.4, 1),
    )


def policy_of(learner: MlxLearner) -> Arrays:
    """The trained arrays: `<layer>.a` and `<layer>.b`."""
    return {name: np.array(array) for name, array in learner._policy.items()}


def gradient_of(learner: MlxLearner, batch: Any) -> tuple[dict[str, float], Arrays]:
    """Metrics and gradient of a batch, no step taken."""
    found = learner._gradient(batch)
    return found.metrics, {name: np.array(gradient) for name, gradient in found.gradient.items()}


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


def assert_near(one: Arrays, other: Arrays, tolerance: float) -> None:
    """Array by array, the norm of the difference within `tolerance` of the norm; none of them is zero."""
    assert one.keys() == other.keys()
    for name, array in one.items():
        assert np.linalg.norm(array) > 0, name
        error = np.linalg.norm(array - other[name]) / np.linalg.norm(array)
        assert error < tolerance, f"{name}: {error:.1e}"
