"""Checkpoints that are ambiguous or unfit for every backend, found from config and headers."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from pudistill_cli.errors import DataError
from pudistill_cli.models.checkpoint_files import read_json
from pudistill_cli.models.safetensors_io import TensorSpec, from_float32, write_tensors
from pudistill_cli.models.student import resolve_student
from tests.tiny import STUDENT

EMBEDDINGS, HEAD = "model.embed_tokens.weight", "lm_head.weight"
Weights = dict[str, np.ndarray]
Save = Callable[..., Path]


@pytest.fixture
def weights() -> Weights:
    return load_file(STUDENT / "model.safetensors")


@pytest.fixture
def save(tmp_path: Path) -> Save:
    """The quickstart's student with other weights and other entries of its config; None takes one out."""

    def saved(weights: Weights, **changes: Any) -> Path:
        folder = tmp_path / "student"
        folder.mkdir(exist_ok=True)
        for path in STUDENT.iterdir():
            (folder / path.name).write_bytes(path.read_bytes())
        config = {k: v for k, v in {**read_json(STUDENT / "config.json"), **changes}.items() if v is not None}
        (folder / "config.json").write_text(json.dumps(config))
        save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
        return folder

    return saved


def refused(folder: Path, *words: str) -> None:
    with pytest.raises(DataError) as error:
        resolve_student(str(folder))
    for word in words:
        assert word in error.value.message
    assert error.value.hint


# --- the head ---


def test_a_head_of_its_own_that_the_config_denies(weights: Weights, save: Save) -> None:
    head = weights[EMBEDDINGS].copy()
    head[-1, -1] += 1
    refused(
        save({**weights, HEAD: head}, tie_word_embeddings=True),
        "tie_word_embeddings: true", "lm_head.weight that differs from model.embed_tokens.weight",
    )  # fmt: skip


def test_a_head_of_another_size_that_the_config_denies(weights: Weights, save: Save) -> None:
    refused(save({**weights, HEAD: weights[EMBEDDINGS][:-1].copy()}, tie_word_embeddings=True), "differs")


def test_embeddings_that_are_stored_twice_are_one_matrix(weights: Weights, save: Save) -> None:
    folder = save({**weights, HEAD: weights[EMBEDDINGS].copy()}, tie_word_embeddings=True)
    assert resolve_student(str(folder)).model_type == "llama"


def test_equal_numbers_in_two_types_are_one_matrix(weights: Weights, save: Save) -> None:
    """The embeddings on bfloat16's grid, and in bfloat16."""
    bits = from_float32(weights[EMBEDDINGS], "BF16")
    rounded = {**weights, EMBEDDINGS: (bits.astype(np.uint32) << 16).view(np.float32)}
    folder = save(rounded, tie_word_embeddings=True)
    specs = [TensorSpec(name, "F32", values.shape) for name, values in rounded.items()]
    specs.append(TensorSpec(HEAD, "BF16", bits.shape))
    write_tensors(folder / "model.safetensors", specs, lambda name: [bits if name == HEAD else rounded[name]])
    assert resolve_student(str(folder)).model_type == "llama"


@pytest.mark.parametrize("said", [False, None])
def test_a_head_of_its_own_that_the_config_does_not_deny(weights: Weights, save: Save, said: bool | None) -> None:
    folder = save({**weights, HEAD: weights[EMBEDDINGS] + 1}, tie_word_embeddings=said)
    assert resolve_student(str(folder)).model_type == "llama"


def test_a_head_that_the_config_promises_and_nobody_stored(weights: Weights, save: Save) -> None:
    refused(save(weights, tie_word_embeddings=False), "tie_word_embeddings: false", "no lm_head.weight")


# --- types ---


@pytest.mark.parametrize(
    ("name", "dtype"),
    [
        ("model.layers.0.mlp.up_proj.weight", "F8_E4M3"),
        ("model.layers.0.mlp.up_proj.weight", "I8"),
        ("model.layers.0.mlp.up_proj.weight", "U8"),  # bitsandbytes
        ("model.layers.0.mlp.up_proj.qweight", "I32"),  # GPTQ, AWQ
        ("model.layers.0.mlp.up_proj.weight_packed", "I32"),  # compressed-tensors
    ],
)
def test_weights_that_are_no_floats_are_quantised(weights: Weights, save: Save, name: str, dtype: str) -> None:
    folder = save(weights)
    shape = weights["model.layers.0.mlp.up_proj.weight"].shape
    header = {n: ["F32", w.shape, 4 * w.size] for n, w in weights.items()}
    header[name] = [dtype, shape, int(np.prod(shape)) * (4 if dtype == "I32" else 1)]
    write_headers(folder / "model.safetensors", header)
    refused(folder, "is a quantised checkpoint", f"({name} is {dtype})")


def write_headers(path: Path, tensors: dict[str, list[Any]]) -> None:
    """A file of zeros with these dtypes, shapes and bytes."""
    end, header = 0, {}
    for name, (dtype, shape, size) in tensors.items():
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [end, end + size]}
        end += size
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + bytes(end))


@pytest.mark.parametrize("entry", ["quantization_config", "quantization", "compression_config"])
def test_a_config_that_says_quantised(weights: Weights, save: Save, entry: str) -> None:
    refused(save(weights, **{entry: {"bits": 4}}), "is a quantised checkpoint")


def test_buffers_of_integers_and_other_floats_are_no_matter(weights: Weights, save: Save) -> None:
    buffers = {
        "model.layers.0.self_attn.position_ids": np.arange(4),
        "model.layers.0.self_attn.bias": np.ones((1, 1, 4, 4), np.uint8),
        "model.norm.weight": weights["model.norm.weight"].astype(np.float64),
    }
    assert resolve_student(str(save({**weights, **buffers}))).model_type == "llama"


# --- shapes ---


def test_a_config_of_another_size(weights: Weights, save: Save) -> None:
    rows, width = weights[EMBEDDINGS].shape
    refused(save(weights, vocab_size=rows + 8), f"by it, {EMBEDDINGS} is {rows + 8} x {width}, and it is {rows} x")
    refused(save(weights, hidden_size=2 * width), f"is {rows} x {2 * width}, and it is {rows} x {width}")


# --- tokens ---


def test_a_tokenizer_of_another_model(weights: Weights, save: Save) -> None:
    fewer = {**weights, EMBEDDINGS: weights[EMBEDDINGS][:500].copy()}
    refused(save(fewer, vocab_size=500), "has 768 tokens, and the model's embeddings have 500 rows")
