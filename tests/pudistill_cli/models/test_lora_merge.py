"""Tensors are read one at a time in float32, with what an adapter adds."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from pudistill_cli.errors import DataError, ExportError
from pudistill_cli.models.lora_merge import merged_tensors
from pudistill_cli.models.peft_adapter import CONFIG, WEIGHTS
from pudistill_cli.models.safetensors_io import TensorSpec, write_tensors

W = np.array([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]], np.float32)
A = np.array([[1.0, 0.0, 2.0]], np.float32)
B = np.array([[0.5], [-1.0]], np.float32)
MODULE = "base_model.model.q"


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """One weight in bf16 (its 16 upper bits; these numbers need no more), one in float32, one of integers."""
    bits = (W.view(np.uint32) >> 16).astype(np.uint16)
    stored = {"q.weight": bits, "norm.weight": W[0], "ids": np.array([7, 8], np.int64)}
    specs = [
        TensorSpec("q.weight", "BF16", (2, 3)),
        TensorSpec("norm.weight", "F32", (3,)),
        TensorSpec("ids", "I64", (2,)),
    ]
    write_tensors(tmp_path / "model.safetensors", specs, lambda name: [stored[name].reshape(-1)])
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    return tmp_path


@pytest.fixture
def adapter(tmp_path: Path) -> Path:
    folder = tmp_path / "adapter"
    folder.mkdir()
    stored = {f"{MODULE}.lora_A.weight": A, f"{MODULE}.lora_B.weight": B}
    specs = [TensorSpec(name, "F32", matrix.shape) for name, matrix in stored.items()]
    write_tensors(folder / WEIGHTS, specs, lambda name: [stored[name].reshape(-1)])
    (folder / CONFIG).write_text(json.dumps({"peft_type": "LORA", "r": 1, "lora_alpha": 4}))
    return folder


def test_without_an_adapter(checkpoint: Path) -> None:
    merged = merged_tensors(checkpoint)
    assert set(merged.names) == {"q.weight", "norm.weight", "ids"}
    assert merged.shape("q.weight") == (2, 3)
    assert merged.config == {"model_type": "llama"}
    np.testing.assert_array_equal(merged.read("q.weight"), W)
    np.testing.assert_array_equal(merged.read("norm.weight"), W[0])


def test_with_an_adapter(checkpoint: Path, adapter: Path) -> None:
    """W + (alpha / r) B A = W + 4 [[.5, 0, 1], [-1, 0, -2]], by hand."""
    merged = merged_tensors(checkpoint, adapter)
    np.testing.assert_array_equal(merged.read("q.weight"), [[3, 2, 7], [0, 5, -2]])
    np.testing.assert_array_equal(merged.read("norm.weight"), W[0])


def test_integers_are_no_weights(checkpoint: Path) -> None:
    with pytest.raises(DataError, match="ids is of type I64") as caught:
        merged_tensors(checkpoint).read("ids")
    assert caught.value.hint


def test_a_quantised_checkpoint_is_refused(checkpoint: Path) -> None:
    (checkpoint / "config.json").write_text('{"quantization_config": {"bits": 4}}')
    with pytest.raises(ExportError, match="is quantised"):
        merged_tensors(checkpoint)
