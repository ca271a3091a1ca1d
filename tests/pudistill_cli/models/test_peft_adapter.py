"""What of an adapter is read, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pudistill_cli.errors import DataError, ExportError
from pudistill_cli.models.peft_adapter import read_adapter
from pudistill_cli.models.safetensors_io import TensorSpec, write_tensors

CONFIG = {"peft_type": "LORA", "r": 2, "lora_alpha": 8, "bias": "none", "init_lora_weights": True}
A = np.array([[1, 0, 2], [0, 1, 0]], dtype=np.float32)  # (r, in)
B = np.array([[1, 0], [0, 1], [1, 1], [0, 2]], dtype=np.float32)  # (out, r)
PRODUCT = np.array([[1, 0, 2], [0, 1, 0], [1, 1, 2], [0, 2, 0]], dtype=np.float32)  # B A by hand
MODULE = "model.layers.0.mlp.up_proj"


def adapter(folder: Path, tensors: dict[str, np.ndarray] | None = None, **config: Any) -> Path:
    if tensors is None:
        tensors = {f"{MODULE}.lora_A.weight": A, f"{MODULE}.lora_B.weight": B}
    named = {f"base_model.model.{name}": tensor for name, tensor in tensors.items()}
    folder.mkdir(exist_ok=True)
    (folder / "adapter_config.json").write_text(json.dumps(CONFIG | config))
    specs = [TensorSpec(name, "F32", tensor.shape) for name, tensor in named.items()]
    write_tensors(folder / "adapter_model.safetensors", specs, lambda name: [named[name]])
    return folder


@pytest.mark.parametrize(
    ("config", "scale"),
    [
        ({}, 8 / 2),
        ({"use_rslora": True}, 8 / np.sqrt(2)),
        ({"alpha_pattern": {"up_proj": 3}}, 3 / 2),
        ({"alpha_pattern": {"layers.0.mlp.up_proj": 3}}, 3 / 2),
        ({"alpha_pattern": {r"layers\.[0-3]\..*": 3}}, 3 / 2),
        ({"alpha_pattern": {"p_proj": 3}}, 8 / 2),  # not at a dot
        ({"alpha_pattern": {"down_proj": 5, "up_proj": 3}}, 3 / 2),
        ({"r": 16, "rank_pattern": {"up_proj": 2}}, 8 / 2),  # the tensors' own rank counts
    ],
)
def test_the_factor(tmp_path: Path, config: dict[str, Any], scale: float):
    addition = read_adapter(adapter(tmp_path / "a", **config))[MODULE]
    assert addition.scale == pytest.approx(scale)
    assert addition.shape == (4, 3)
    np.testing.assert_allclose(addition.rows(1, 4), scale * PRODUCT[1:4], rtol=1e-6)


def test_weights_that_are_in_by_out(tmp_path: Path):
    addition = read_adapter(adapter(tmp_path / "a", fan_in_fan_out=True))[MODULE]
    assert addition.shape == (3, 4)
    assert addition.rows(0, 3).tolist() == (4 * PRODUCT.T).tolist()


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"peft_type": "LOHA"}, "its peft_type is 'LOHA'"),
        ({"bias": "all"}, "its bias is 'all'"),
        ({"use_dora": True}, "it uses use_dora"),
        ({"modules_to_save": ["lm_head"]}, "it uses modules_to_save"),
        ({"init_lora_weights": "pissa"}, "its init_lora_weights is 'pissa'"),
        ({"layer_replication": [[0, 2]]}, "it uses layer_replication"),
        ({"some_new_kind_of_lora": {"x": 1}}, "it uses some_new_kind_of_lora"),
    ],
)
def test_more_than_plain_lora_is_refused(tmp_path: Path, config: dict[str, Any], message: str):
    with pytest.raises(ExportError, match=message) as error:
        read_adapter(adapter(tmp_path / "a", **config))
    assert "--format adapter" in error.value.hint


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({"model.embed_tokens.lora_embedding_A": A}, r"embed_tokens\.lora_embedding_A is no LoRA of a linear layer"),
        ({"lm_head.modules_to_save.weight": A}, r"modules_to_save\.weight is no LoRA"),
        ({"conv.lora_A.weight": np.zeros((2, 3, 1), np.float32)}, r"conv\.lora_A\.weight is no LoRA of a linear"),
        ({"q.lora_A.weight": A}, "lora_A and lora_B of q do not fit"),
        ({"q.lora_A.weight": A, "q.lora_B.weight": A}, "lora_A and lora_B of q do not fit"),
    ],
)
def test_tensors_that_cannot_be_added_are_refused(tmp_path: Path, tensors: dict[str, np.ndarray], message: str):
    with pytest.raises(ExportError, match=message):
        read_adapter(adapter(tmp_path / "a", tensors))


def test_a_folder_without_an_adapter_is_refused(tmp_path: Path):
    with pytest.raises(ExportError, match=r"holds no adapter_config\.json"):
        read_adapter(tmp_path)
    (adapter(tmp_path / "a") / "adapter_model.safetensors").rename(tmp_path / "a" / "adapter_model.bin")
    with pytest.raises(ExportError, match=r"holds no adapter_model\.safetensors"):
        read_adapter(tmp_path / "a")


@pytest.mark.parametrize("name", ["adapter_config.json", "adapter_model.safetensors"])
def test_a_file_that_is_a_link_out_of_the_folder_is_refused(name: str, tmp_path: Path):
    folder = adapter(tmp_path / "a")
    (folder / name).rename(tmp_path / name)
    (folder / name).symlink_to(tmp_path / name)
    with pytest.raises(DataError, match="leads out of its folder"):
        read_adapter(folder)
    (folder / name).unlink()
    (tmp_path / name).rename(folder / "blob")
    (folder / name).symlink_to("blob")
    assert read_adapter(folder)
