"""Checkpoints that torch cannot hold, refused by name before a weight is read, and when they are opened."""

from __future__ import annotations

import json
import shutil
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, Lfm2Config, MambaConfig, Qwen3MoeConfig

from pudistill_cli.errors import BackendError, DataError
from pudistill_cli.models.merged_checkpoint import merge_lora
from pudistill_cli.models.peft_adapter import read_adapter
from pudistill_torch import backend
from tests.backends.pudistill_torch.small import SIZES, open_engine, open_learner, save_student

WEIGHTS = "model.safetensors"


def copy(student: Path, folder: Path, weights: dict[str, torch.Tensor], **config: Any) -> Path:
    """The student with other weights and other entries of its config."""
    whole = {**json.loads((student / "config.json").read_text()), **config}
    (folder / "config.json").write_text(json.dumps(whole))
    save_file(weights, folder / WEIGHTS, metadata={"format": "pt"})
    return folder


def test_the_student_is_not_refused(student: Path) -> None:
    assert backend.refusal(student) is None


def test_an_architecture_that_is_not_known_is_told_as_such_elsewhere(student: Path, tmp_path: Path) -> None:
    assert backend.refusal(copy(student, tmp_path, load_file(student / WEIGHTS), model_type="of_tomorrow")) is None


LFM2 = Lfm2Config(
    **SIZES, num_key_value_heads=2, layer_types=["conv", "full_attention"], block_auto_adjust_ff_dim=False
)


def test_layers_of_convolutions(tmp_path: Path) -> None:
    folder = save_student(tmp_path, LFM2)
    assert backend.refusal(folder) == "it has layers that are not plain attention (conv)."
    with pytest.raises(BackendError, match=r"not plain attention \(conv\)"):
        open_engine(folder)


def test_layers_of_convolutions_that_only_transformers_derives(tmp_path: Path) -> None:
    folder = save_student(tmp_path, LFM2)
    config = json.loads((folder / "config.json").read_text())
    del config["layer_types"]
    (folder / "config.json").write_text(json.dumps(config | {"full_attn_idxs": [1]}))
    assert backend.refusal(folder) == "it has layers that are not plain attention (conv)."


def test_a_recurrent_model(tmp_path: Path) -> None:
    folder = save_student(tmp_path, MambaConfig(vocab_size=64, hidden_size=16, state_size=4, num_hidden_layers=1))
    assert backend.refusal(folder) == "models of type 'mamba' are recurrent."


def test_sliding_windows_are_attention(tmp_path: Path) -> None:
    config = AutoConfig.for_model(
        "gemma3_text", **SIZES, num_key_value_heads=2, head_dim=8, sliding_window=16,
        layer_types=["sliding_attention", "full_attention"],
    )  # fmt: skip
    assert backend.refusal(save_student(tmp_path, config)) is None


def test_weights_that_are_missing(student: Path, tmp_path: Path) -> None:
    weights = load_file(student / WEIGHTS)
    del weights["model.layers.1.mlp.up_proj.weight"]
    folder = copy(student, tmp_path, weights)
    assert backend.refusal(folder) == "it lacks 1 of its weights, model.layers.1.mlp.up_proj.weight the first."


def test_more_layers_than_the_config_says(student: Path, tmp_path: Path) -> None:
    """transformers would drop the last layer with a warning, and run another model."""
    folder = copy(student, tmp_path, load_file(student / WEIGHTS), num_hidden_layers=1)
    refusal = str(backend.refusal(folder))
    assert "it holds 9 weights that transformers' LlamaForCausalLM has no place for" in refusal
    assert "model.layers.1." in refusal
    with pytest.raises(DataError, match="has no place for"):
        open_engine(folder)


def test_weights_of_another_shape(student: Path, tmp_path: Path) -> None:
    folder = copy(student, tmp_path, load_file(student / WEIGHTS), intermediate_size=64)
    assert "transformers cannot load it: " in str(backend.refusal(folder))


def test_buffers_that_old_checkpoints_have_are_no_weights(student: Path, tmp_path: Path) -> None:
    weights = load_file(student / WEIGHTS)
    weights["model.layers.0.self_attn.rotary_emb.inv_freq"] = torch.ones(4)
    assert backend.refusal(copy(student, tmp_path, weights)) is None


def test_layers_that_the_checkpoint_calls_otherwise(tmp_path: Path) -> None:
    """A vision tower's checkpoint: transformers renames what it loads, and an adapter would be named by that."""
    folder = tmp_path / "student"
    text = {**SIZES, "num_key_value_heads": 2, "head_dim": 8, "model_type": "gemma3_text"}
    vision = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
              "image_size": 28, "patch_size": 14}  # fmt: skip
    config = AutoConfig.for_model("gemma3", text_config=text, vision_config=vision, mm_tokens_per_image=4)
    save_student(folder, config)
    weights = load_file(folder / WEIGHTS)
    save_file({n.replace("model.language_model.", "language_model.model."): w for n, w in weights.items()},
              folder / WEIGHTS, metadata={"format": "pt"})  # fmt: skip
    assert "what the checkpoint calls or splits otherwise" in str(backend.refusal(folder))


# --- mixtures of experts ---


@pytest.fixture(scope="module")
def experts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The first layer is dense, so that its MLP has linear layers of the names that the experts had."""
    config = Qwen3MoeConfig(
        **SIZES, num_key_value_heads=2, head_dim=8, num_experts=4, num_experts_per_tok=2, moe_intermediate_size=16,
        mlp_only_layers=[0],
    )  # fmt: skip
    return save_student(tmp_path_factory.mktemp("experts"), config)


def test_experts_stay_as_they_are(experts: Path, tmp_path: Path) -> None:
    assert backend.refusal(experts) is None
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing", category=FutureWarning)
        learner = open_learner(experts)
        snapshot = learner.snapshot(tmp_path / "sft")
    modules = {name.rpartition(".")[2] for name in read_adapter(snapshot)}
    assert modules == {"q_proj", "k_proj", "v_proj", "o_proj"}
    assert json.loads((snapshot / "adapter_config.json").read_text())["target_modules"] == sorted(modules)
    report = merge_lora(experts, snapshot, tmp_path / "merged")
    assert report.tensors == 2 * 4
    assert backend.refusal(tmp_path / "merged") is None


def test_an_adapter_is_read_again_after_another_was_dropped(experts: Path, tmp_path: Path) -> None:
    """peft renames what transformers renamed by the adapter that was active first, which is gone."""
    learner = open_learner(experts)
    learner.snapshot(tmp_path / "sft")
    engine = open_engine(experts)
    engine.drop_adapter(engine.load_adapter(tmp_path / "sft"))
    first = engine.load_adapter(tmp_path / "sft")
    engine.drop_adapter(first)
    assert engine.load_adapter(tmp_path / "sft") != first


def test_a_pointer_in_place_of_the_weights(student: Path, tmp_path: Path) -> None:
    shutil.copy(student / "config.json", tmp_path / "config.json")
    (tmp_path / WEIGHTS).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n")
    with pytest.raises(DataError, match="a Git LFS pointer"):
        open_engine(tmp_path)
