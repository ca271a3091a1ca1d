"""Every hyper-parameter in the metadata, by value: a wrong epsilon or context length shows in no distribution."""

from __future__ import annotations

import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pudistill_llamacpp.convert.hyperparameters import Hyperparameters
from pudistill_llamacpp.convert.rope import llama3_factors, rope_of
from pudistill_llamacpp.convert.writer import write_gguf
from tests.backends.pudistill_llamacpp.convert.upstream_converter import metadata, tensors
from tests.backends.random_models import LLAMA3, LONG, MODELS, SIZES

SHARED: dict[str, Any] = {
    "block_count": 2,
    "context_length": 256,
    "embedding_length": 64,
    "feed_forward_length": 96,
    "attention.head_count": 4,
    "attention.head_count_kv": 2,
    "attention.layer_norm_rms_epsilon": 2e-5,
}
THETA = {"rope.freq_base": 500.0}


def wide(head: int) -> dict[str, Any]:
    return {"attention.key_length": head, "attention.value_length": head}


def llama(head: int, vocabulary: int) -> dict[str, Any]:
    return SHARED | THETA | wide(head) | {"vocab_size": vocabulary, "rope.dimension_count": head}


EXPECTED: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("llama", llama(24, 512)),
    "llama3": ("llama", llama(16, 768)),
    "llama-yarn": (
        "llama",
        llama(16, 768)
        | {
            "rope.scaling.type": "yarn",
            "rope.scaling.factor": 4.0,
            "rope.scaling.original_context_length": 64,
            "rope.scaling.attn_factor": 1.3 / (0.1 * math.log(4.0) + 1),
        },
    ),
    "llama-linear": ("llama", llama(16, 768) | {"rope.scaling.type": "linear", "rope.scaling.factor": 4.0}),
    "mistral": ("llama", llama(16, 512) | {"context_length": 128}),
    "qwen2": ("qwen2", SHARED | THETA),
    "qwen3": ("qwen3", SHARED | THETA | wide(24)),
    "gemma2": (
        "gemma2",
        SHARED
        | wide(24)
        | {
            "attn_logit_softcapping": 30.0,
            "final_logit_softcapping": 20.0,
            "attention.sliding_window": 16,
        },
    ),
    "gemma3": (
        "gemma3",
        SHARED
        | wide(24)
        | {
            "block_count": 7,
            "rope.freq_base": 2000.0,
            "rope.freq_base_swa": 100.0,
            "rope.scaling.type": "linear",
            "rope.scaling.factor": 2.0,
            "attention.sliding_window": 16,
        },
    ),
    "phi3": (
        "phi3",
        SHARED
        | THETA
        | {
            "rope.dimension_count": 16,
            "rope.scaling.original_context_length": 256,
            "attention.sliding_window": 256,
        },
    ),
    "phi3-long": (
        "phi3",
        SHARED
        | THETA
        | {
            "rope.dimension_count": 12,
            "rope.scaling.original_context_length": 64,
            "rope.scaling.attn_factor": math.sqrt(1 + math.log(4) / math.log(64)),
            "attention.sliding_window": 0,
        },
    ),
    "smollm3": ("smollm3", llama(16, 768) | {"block_count": 5}),
}


@pytest.mark.parametrize("name", MODELS)
def test_every_value(name: str, models: dict[str, Path], tmp_path: Path) -> None:
    written = metadata(write_gguf(models[name], tmp_path / "m.gguf", dtype="f16").path)
    architecture, values = EXPECTED[name]
    assert written["general.architecture"][0] == architecture
    prefix = f"{architecture}."
    got = {k.removeprefix(prefix): v for k, (v, _) in written.items() if k.startswith(prefix)}
    assert got.keys() == values.keys()
    for key, value in values.items():
        assert got[key] == (pytest.approx(value, rel=1e-6) if isinstance(value, float) else value), key


def test_general_keys(models: dict[str, Path], tmp_path: Path) -> None:
    folder = tmp_path / "student"
    shutil.copytree(models["llama"], folder)
    (folder / "README.md").write_text("---\ntags: [x]\nlicense: apache-2.0\n---\n# A card\n", encoding="utf-8")
    written = metadata(write_gguf(folder, tmp_path / "m.gguf", dtype="q8_0", name="A model").path)
    assert {k: v for k, (v, _) in written.items() if k.startswith("general.")} == {
        "general.architecture": "llama",
        "general.type": "model",
        "general.name": "A model",
        # 2 * 512 * 64 of head and embeddings, 2 * 37,504 of blocks, 64 of a norm: 140,608.
        "general.size_label": "141K",
        "general.file_type": 7,  # MOSTLY_Q8_0
        "general.quantization_version": 2,
        "general.license": "apache-2.0",
    }


def test_llama3_factors(models: dict[str, Path], tmp_path: Path) -> None:
    """Head width 16, theta 500: wavelengths 2 pi 500^(i/8) = 6.3, 13.7, 29.7, 64.6, 140, 305, 664, 1444.

    Below 64 / 4 = 16 they stay, above 64 / 1 they are divided by 8; between, at 29.7, the interpolation is
    s = (64 / 29.71 - 1) / 3 = 0.3847, and the divisor 1 / ((1 - s) / 8 + s) = 2.167.
    """
    written = tensors(write_gguf(models["llama3"], tmp_path / "m.gguf", dtype="f16").path)
    kind, shape, data = written["rope_freqs.weight"]
    assert (kind, shape) == ("F32", (8,))
    np.testing.assert_allclose(np.frombuffer(data, np.float32), [1, 1, 2.167, 8, 8, 8, 8, 8], rtol=1e-3)


def test_llama3_factors_invert_transformers_frequencies() -> None:
    """The second implementation: transformers' own scaled frequencies."""
    from transformers import LlamaConfig
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    config = LlamaConfig(**SIZES, rope_parameters=LLAMA3)
    scaled, _ = ROPE_INIT_FUNCTIONS["llama3"](config, "cpu")
    plain = 500.0 ** -(np.arange(0, 16, 2) / 16)
    factors = llama3_factors(rope_of(Hyperparameters({"rope_scaling": LLAMA3}, {})), 16)
    np.testing.assert_allclose(plain / factors, scaled.numpy(), rtol=1e-6)


def test_long_factors(models: dict[str, Path], tmp_path: Path) -> None:
    written = tensors(write_gguf(models["phi3-long"], tmp_path / "m.gguf", dtype="f16").path)
    for name in ("long", "short"):
        values = np.frombuffer(written[f"rope_factors_{name}.weight"][2], np.float32)
        np.testing.assert_array_equal(values, np.asarray(LONG[f"{name}_factor"], np.float32))


@pytest.mark.parametrize(
    ("config", "theta", "kind"),
    [
        ({}, 10000.0, "default"),
        ({"rope_theta": 5e5, "rope_scaling": {"type": "linear", "factor": 2.0}}, 5e5, "linear"),
        ({"rope_theta": 5e5, "rope_scaling": {"rope_type": "llama3"}}, 5e5, "llama3"),
        ({"rope_theta": 1.0, "rope_parameters": {"rope_theta": 7.0, "rope_type": "yarn"}}, 7.0, "yarn"),
        ({"rope_scaling": {"type": "su"}}, 10000.0, "longrope"),
    ],
)
def test_settings_of_several_ages(config: dict[str, Any], theta: float, kind: str) -> None:
    rope = rope_of(Hyperparameters(config, {}))
    assert (rope.theta, rope.kind) == (theta, kind)


def test_older_gemma_3_config() -> None:
    hyper = Hyperparameters({"rope_theta": 1e6, "rope_local_base_freq": 1e4}, {})
    assert (rope_of(hyper).theta, rope_of(hyper, "sliding_attention").theta) == (1e6, 1e4)
