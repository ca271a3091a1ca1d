"""A checkpoint with a vision tower: its language model alone is the student, and computes what it computed there."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from safetensors.numpy import load_file, save_file

from pudistill_cli.errors import DataError
from pudistill_cli.models.checkpoint_files import read_json
from pudistill_cli.models.student import Student, resolve_student
from tests.tiny import STUDENT

torch = pytest.importorskip("torch", reason="needs torch and transformers, which write the checkpoint")
transformers = pytest.importorskip("transformers", reason="needs torch and transformers")

TEXT: dict[str, Any] = {
    "model_type": "gemma3_text", "vocab_size": 768, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 6,
    "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8, "max_position_embeddings": 256,
    "sliding_window": 16, "query_pre_attn_scalar": 8, "eos_token_id": 1, "bos_token_id": 2, "pad_token_id": 0,
}  # fmt: skip
VISION = {
    "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 28,
    "patch_size": 14,
}  # fmt: skip


def save(folder: Path, kind: str = "gemma3", **text: Any) -> Path:
    """A random one with the quickstart's tokenizer, as transformers 5 writes it."""
    config = transformers.AutoConfig.for_model(
        kind, text_config=TEXT | text, vision_config=VISION, mm_tokens_per_image=4, tie_word_embeddings=True
    )
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(config)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    model.save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        shutil.copy(STUDENT / name, folder / name)
    return folder


@pytest.fixture(params=["as transformers 4 writes it", "as transformers 5 writes it"])
def whole(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    folder = save(tmp_path / "whole")
    weights = load_file(folder / "model.safetensors")
    old = {name.replace("model.language_model.", "language_model.model."): w for name, w in weights.items()}
    new = {name.replace("language_model.model.", "model.language_model."): w for name, w in weights.items()}
    assert old.keys() != new.keys()
    save_file(old if "4" in request.param else new, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def logits(folder: Path) -> Any:
    model = transformers.AutoModelForCausalLM.from_pretrained(folder)
    ids = torch.arange(60)[None] * 11 % 768  # beyond the sliding window
    return model(input_ids=ids).logits.detach()


def test_the_language_model_computes_alone_what_it_computes_in_the_whole(whole: Path) -> None:
    student = resolve_student(str(whole))
    assert torch.equal(logits(student.folder), logits(whole))
    assert float(logits(whole).std()) > 0.1


def test_it_is_a_plain_language_model_in_the_cache(whole: Path, tmp_path: Path) -> None:
    student = resolve_student(str(whole))
    assert (student.model_type, student.context) == ("gemma3_text", 256)
    assert student.folder.is_relative_to(tmp_path / "cache")
    assert student.notices == (
        "The student's checkpoint is more than a language model (text_config, vision_config). Its language model "
        "alone, of type gemma3_text, is trained, sampled and exported.",
    )
    config = read_json(student.folder / "config.json")
    assert (config["architectures"], config["tie_word_embeddings"]) == (["Gemma3ForCausalLM"], True)
    assert not {"text_config", "vision_config"} & config.keys()
    names = set(load_file(student.folder / "model.safetensors"))
    assert "model.layers.5.mlp.up_proj.weight" in names
    assert all(name.startswith("model.") and "vision" not in name for name in names)
    parameters = transformers.AutoModelForCausalLM.from_pretrained(student.folder).num_parameters()
    assert student.parameters == parameters


def test_it_is_made_once_and_anew_for_other_weights(whole: Path) -> None:
    first = resolve_student(str(whole))
    (first.folder / "mark").touch()
    assert (resolve_student(str(whole)).folder / "mark").exists()
    weights = load_file(whole / "model.safetensors")
    name = next(name for name in weights if name.endswith("norm.weight"))
    save_file({**weights, name: weights[name] + 1}, whole / "model.safetensors", metadata={"format": "pt"})
    assert resolve_student(str(whole)).folder != first.folder


def described(whole: Path, **changes: Any) -> Student:
    config = json.loads((whole / "config.json").read_text())
    (whole / "config.json").write_text(json.dumps({k: v for k, v in (config | changes).items() if v is not None}))
    return resolve_student(str(whole))


@pytest.mark.parametrize(
    "changes",
    [
        {"text_config": TEXT | {"model_type": "qwen2_5_vl_text"}},
        {"text_config": None},  # as older ones write it, all in one
        {"text_config": TEXT, "vision_config": None, "audio_config": {"hidden_size": 4}, "model_type": "x_audio"},
    ],
)
def test_what_is_not_known_to_be_the_same_alone_is_refused(changes: dict[str, Any], tmp_path: Path) -> None:
    folder = save(tmp_path / "whole")
    if "audio_config" in changes:
        weights = load_file(folder / "model.safetensors")
        save_file({f"thinker.{n}": w for n, w in weights.items()}, folder / "model.safetensors")
    with pytest.raises(DataError, match="is more than a language model") as error:
        described(folder, **changes)
    assert "gemma3_text, llama" in error.value.hint
