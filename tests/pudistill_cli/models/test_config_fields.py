"""Every entry of config.json that a framework computes with: other types, absurd sizes, and sizes of other weights."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from pudistill_cli.errors import DataError
from pudistill_cli.models.config_fields import check_fields, check_sizes, check_token_ids

PATH = Path("student/config.json")
SOUND: dict[str, Any] = {
    "model_type": "llama",
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "vocab_size": 100,
    "rms_norm_eps": 1e-5,
    "rope_scaling": {"type": "linear", "factor": 2},
    "eos_token_id": [1, 2],
    "sliding_window": None,
    "attention_dropout": 0,
    "layer_types": ["full_attention"] * 2,
    "torch_dtype": "bfloat16",
}
SHAPES = {
    "model.embed_tokens.weight": (100, 64),
    "model.layers.0.mlp.up_proj.weight": (128, 64),
    "model.layers.1.mlp.up_proj.weight": (128, 64),
}


def test_a_sound_config_passes() -> None:
    check_fields(PATH, SOUND)
    check_sizes(PATH, SOUND, SHAPES)
    check_fields(PATH, {"model_type": "x", "text_config": SOUND, "anything": {"a": [1]}})


@pytest.mark.parametrize(
    "wrong",
    [10**12, 10**4000, -1, 0, 1.5, math.nan, math.inf, True, "64", [], {}, [64.0]],
    ids=lambda value: str(value)[:12],
)
@pytest.mark.parametrize("name", ["hidden_size", "num_hidden_layers", "num_attention_heads", "vocab_size", "head_dim"])
def test_a_size_that_is_none(name: str, wrong: Any) -> None:
    with pytest.raises(DataError, match=f"{name} is .*and should be") as caught:
        check_fields(PATH, {**SOUND, name: wrong})
    assert "student/config.json" in caught.value.message
    assert len(caught.value.message) < 200
    assert caught.value.hint


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"rms_norm_eps": "1e-5"}, "rms_norm_eps is '1e-5', and should be a number from 0 to 1"),
        ({"rms_norm_eps": 10**400}, "rms_norm_eps"),
        ({"attention_dropout": -0.5}, "attention_dropout is -0.5"),
        ({"tie_word_embeddings": 1}, "should be true or false"),
        ({"hidden_act": ["silu"]}, "hidden_act is a list, and should be a text"),
        (
            {"architectures": ["LlamaForCausalLM", 1]},
            "architectures is a list, and should be a list, each entry a text",
        ),
        ({"eos_token_id": [1, "2"]}, "eos_token_id"),
        ({"eos_token_id": 1 << 31}, "eos_token_id"),
        ({"rope_parameters": [1]}, "rope_parameters is a list, and should be an object"),
        ({"rope_parameters": {"rope_theta": 0}}, r"rope_parameters\.rope_theta is 0"),
        ({"rope_parameters": {"full_attention": {"factor": "8"}}}, r"rope_parameters\.full_attention\.factor is '8'"),
        ({"rope_scaling": {"short_factor": [1.0, None]}}, r"rope_scaling\.short_factor"),
        ({"num_key_value_heads": 3}, "should be a divisor of num_attention_heads, 4"),
        ({"text_config": "x"}, "text_config is 'x', and should be an object"),
        ({"text_config": {"hidden_size": 0}}, "hidden_size is 0"),
        ({"layer_types": ["full_attention"] * 70_000}, "at most 65,536 entries"),
    ],
)
def test_an_entry_of_another_type_or_range(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(DataError, match=said):
        check_fields(PATH, SOUND | changes)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"num_hidden_layers": 3}, "there are 3 layers, and the weights have 2"),
        ({"intermediate_size": 129}, "intermediate_size is 129, and the largest side of a weight is 128"),
        ({"vocab_size": 1000}, "vocab_size is 1,000"),
        ({"head_dim": 64}, "4 heads of 64 are wider than any weight, 128"),
        ({"num_attention_heads": 512, "head_dim": None}, "512 heads of 1"),
    ],
)
def test_sizes_of_other_weights(changes: dict[str, Any], said: str) -> None:
    check_fields(PATH, SOUND | changes)
    with pytest.raises(DataError, match=said):
        check_sizes(PATH, SOUND | changes, SHAPES)


def test_a_generation_config_is_asked_for_its_ids_alone() -> None:
    check_token_ids(PATH, {"temperature": "hot", "eos_token_id": 1})
    with pytest.raises(DataError, match="eos_token_id"):
        check_token_ids(PATH, {"eos_token_id": 1.0})
