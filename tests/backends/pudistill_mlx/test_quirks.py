"""What of a config mlx-lm reads otherwise: the replacements and refusals, entry by entry."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from pudistill_cli.errors import BackendError
from pudistill_mlx import backend, quirks
from tests.backends.pudistill_mlx.small import spec_of

LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
TIED = {"tie_word_embeddings": True}


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({}, {}),
        ({"rope_theta": 500.0}, {}),
        ({"rope_parameters": {"rope_type": "default", "rope_theta": 500.0}}, {"rope_theta": 500.0}),
        (
            {"rope_parameters": {"rope_theta": 500.0, "partial_rotary_factor": 0.5}},
            {"rope_theta": 500.0, "partial_rotary_factor": 0.5},
        ),
        (
            {"rope_parameters": {"rope_theta": 500.0, **LLAMA3}},
            {"rope_theta": 500.0, "rope_scaling": {**LLAMA3, "type": "llama3"}},
        ),
        (
            {
                "rope_parameters": {
                    "full_attention": {"rope_type": "linear", "rope_theta": 2e3, "factor": 2.0},
                    "sliding_attention": {"rope_type": "default", "rope_theta": 100.0},
                }
            },
            {
                "rope_theta": 2e3,
                "rope_scaling": {"rope_type": "linear", "type": "linear", "factor": 2.0},
                "rope_local_base_freq": 100.0,
            },
        ),
        (
            {"model_type": "mistral", "sliding_window": 4096, "layer_types": ["sliding_attention"] * 2},
            {"layer_types": None},
        ),
        ({"model_type": "mistral", "sliding_window": 4096}, {}),
        ({"model_type": "mistral", "sliding_window": None}, {}),
        (
            {"layer_types": ["sliding_attention", "sliding_attention", "full_attention", "sliding_attention"]},
            {"sliding_window_pattern": 3},
        ),
        ({"layer_types": ["full_attention", "full_attention", "sliding_attention"]}, {}),
    ],
)
def test_entries_that_replace_the_configs(config: dict[str, Any], expected: dict[str, Any]) -> None:
    assert quirks.settings_for_mlx_lm(TIED | config, frozenset()) == expected


@pytest.mark.parametrize(("tensors", "tied"), [({"lm_head.weight"}, False), ({"model.norm.weight"}, True)])
def test_without_a_word_on_tied_embeddings_the_weights_tell(tensors: set[str], tied: bool) -> None:
    assert quirks.settings_for_mlx_lm({}, frozenset(tensors)) == {"tie_word_embeddings": tied}


def test_yarns_attention_factor_comes_out_of_mlx_lms_own_formula() -> None:
    """0.1 m ln(4) + 1 = 1.3, so m = 3 / ln(4)."""
    rope = {"rope_type": "yarn", "rope_theta": 500.0, "factor": 4.0, "attention_factor": 1.3}
    scaling = quirks.settings_for_mlx_lm(TIED | {"rope_parameters": rope}, frozenset())["rope_scaling"]
    assert scaling["mscale"] == pytest.approx(3 / math.log(4))
    assert scaling["mscale_all_dim"] == 0


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, (1.0, 0.0)),
        ({"mscale": 0.7}, (1.0, 0.0)),
        ({"mscale": 0.7, "mscale_all_dim": 0.5}, (0.7, 0.5)),
    ],
)
def test_yarns_two_scales_go_together(given: dict[str, float], expected: tuple[float, float]) -> None:
    rope = {"rope_type": "yarn", "rope_theta": 500.0, "factor": 4.0} | given
    scaling = quirks.settings_for_mlx_lm(TIED | {"rope_parameters": rope}, frozenset())["rope_scaling"]
    assert (scaling["mscale"], scaling["mscale_all_dim"]) == expected


@pytest.mark.parametrize(
    ("width", "expected"),
    [
        (64, 1.0),  # 8 is a bfloat16
        (640, math.sqrt(640) / 25.25),  # 25.298, in steps of 1/8
        (1152, math.sqrt(1152) / 34.0),  # 33.941, in steps of 1/4
        (96, math.sqrt(96) / 9.8125),  # 9.798, in steps of 1/16
    ],
)
def test_gemma_3s_embedding_scale(width: int, expected: float) -> None:
    config = {"model_type": "gemma3_text", "hidden_size": width}
    assert quirks.embedding_factor(config) == pytest.approx(expected, rel=1e-12)
    assert quirks.embedding_factor(config | {"model_type": "gemma2"}) == 1.0


LONG = {"rope_type": "longrope", "short_factor": [1.0], "long_factor": [2.0]}


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"rope_parameters": LONG}, "long-context RoPE factors at every length"),
        ({"rope_scaling": {"type": "su", "short_factor": [1.0], "long_factor": [2.0]}}, "long-context RoPE factors"),
        ({"rope_scaling": {"type": "dynamic", "factor": 2.0}}, "dynamic RoPE scaling"),
        ({"rope_parameters": {"rope_type": "yarn", "factor": 4.0, "truncate": False}}, "YaRN always rounds"),
        ({"model_type": "llama", "hidden_act": "gelu"}, "computes silu in its MLPs, the checkpoint gelu"),
        ({"model_type": "gemma2", "hidden_activation": "silu"}, "computes gelu_pytorch_tanh in its MLPs"),
        (
            {"model_type": "gemma3_text", "layer_types": ["full_attention", "sliding_attention", "sliding_attention"]},
            "only in a regular pattern",
        ),
    ],
)
def test_what_mlx_lm_computes_otherwise_is_refused(tmp_path: Path, config: dict[str, Any], message: str) -> None:
    (tmp_path / "config.json").write_text(json.dumps(config))
    save_file({"model.norm.weight": np.ones(1, np.float32)}, tmp_path / "model.safetensors")
    refusal = backend.refusal(tmp_path)
    assert refusal is not None
    assert message in refusal
    with pytest.raises(BackendError, match="MLX cannot run") as error:
        backend.open(spec_of(tmp_path))
    assert "backend=torch" in error.value.hint


@pytest.mark.parametrize(
    "config",
    [
        {"rope_parameters": LONG | {"long_factor": [1.0]}},
        {"model_type": "llama", "hidden_act": "silu"},
        {"model_type": "gemma2", "hidden_act": "gelu", "hidden_activation": None},
        {"model_type": "gemma3_text", "layer_types": ["sliding_attention", "full_attention", "sliding_attention"]},
    ],
)
def test_what_mlx_lm_computes_alike_is_not(config: dict[str, Any]) -> None:
    assert quirks.problem(config) is None


@pytest.mark.parametrize(
    ("config", "most"),
    [
        ({"model_type": "gemma2", "sliding_window": 4096}, 4096),
        ({"model_type": "qwen2", "sliding_window": 4096, "use_sliding_window": True}, 4096),
        ({"model_type": "qwen2", "sliding_window": 4096, "use_sliding_window": False}, None),
        ({"model_type": "mistral", "sliding_window": 4096}, None),
        ({"model_type": "gemma3_text", "sliding_window": 512}, None),
    ],
)
def test_windows_that_are_left_out_limit_the_context(tmp_path: Path, config: dict[str, Any], most: int | None) -> None:
    (tmp_path / "config.json").write_text(json.dumps(config))
    if most is None:
        assert backend.describe(spec_of(tmp_path, context=8192))["device"] == "cpu"
        return
    assert backend.describe(spec_of(tmp_path, context=most))["device"] == "cpu"
    with pytest.raises(BackendError, match="sliding window of 4096 tokens") as error:
        backend.describe(spec_of(tmp_path, context=most + 1))
    assert "student.context=4096" in error.value.hint
