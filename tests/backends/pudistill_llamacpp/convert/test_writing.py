"""Greedy stories, merged adapters, types that are really written, feasibility, and the name in the file."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

from pudistill_cli.models.merged_checkpoint import merge_lora
from pudistill_llamacpp.convert.feasibility import bytes_needed, problem
from pudistill_llamacpp.convert.writer import GgufDtype, write_gguf
from pudistill_llamacpp.native.context import Context, ContextSettings
from pudistill_llamacpp.native.model import Model
from tests.backends.pudistill_llamacpp.convert.upstream_converter import tensors
from tests.backends.pudistill_llamacpp.next_tokens import mean_kl, of_checkpoint, of_gguf, random_tokens
from tests.tiny import STUDENT


def test_stories_greedily(shared: Path, tmp_path: Path) -> None:
    """150 tokens from llama.cpp's ids of a prompt are those of transformers from its own."""
    folder = shared / "models" / "stories260K"
    path = write_gguf(folder, tmp_path / "stories.gguf", dtype="f32").path
    prompt = "Once upon a time, there was a little girl"
    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
    ids = tokenizer(prompt, return_tensors="pt").input_ids
    reference = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    made = reference.generate(ids, max_new_tokens=150, min_new_tokens=150, do_sample=False)[0, ids.shape[1] :].tolist()

    model = Model.open(path)
    context = Context(model, ContextSettings(n_ctx=512, threads=1))
    tokens = list(model.vocabulary.encode(prompt, special=True, add_special=True))
    stops = list(model.vocabulary.ends)
    drawn: list[int] = []
    logits = context.decode(tokens, np.arange(len(tokens)), 0)[-1]
    for position in range(len(tokens), len(tokens) + 150):
        allowed = logits.copy()
        allowed[stops] = -np.inf  # as min_new_tokens does
        drawn.append(int(allowed.argmax()))
        logits = context.decode([drawn[-1]], [position], 0)[-1]
    context.close()
    model.close()
    assert len(made) == 150
    assert drawn == made


# --- adapters and types ---


def test_an_adapter_is_merged_as_merge_lora_does(models: dict[str, Path], adapter: Path, tmp_path: Path) -> None:
    """Bit for bit the file of the merged checkpoint, and not the one without the adapter."""
    merge_lora(models["llama"], adapter, tmp_path / "merged")
    shutil.copy(models["llama"] / "tokenizer.model", tmp_path / "merged")
    direct = write_gguf(models["llama"], tmp_path / "direct.gguf", dtype="f16", adapter=adapter, name="x")
    merged = write_gguf(tmp_path / "merged", tmp_path / "merged.gguf", dtype="f16", name="x")
    bare = write_gguf(models["llama"], tmp_path / "bare.gguf", dtype="f16", name="x")
    assert direct.path.read_bytes() == merged.path.read_bytes() != bare.path.read_bytes()


@pytest.mark.parametrize(("dtype", "limit"), [("f16", 1e-4), ("bf16", 1e-2), ("q8_0", 1e-2)])
def test_what_a_type_loses(dtype: GgufDtype, limit: float, models: dict[str, Path], tmp_path: Path) -> None:
    """More than float32, and no more than its bits: 11, 8 and about 8 of them in each weight."""
    tokens = random_tokens(768)
    path = write_gguf(models["qwen3"], tmp_path / "m.gguf", dtype=dtype).path
    assert 1e-9 < mean_kl(of_checkpoint(models["qwen3"], tokens), of_gguf(path, tokens)) < limit


def test_rows_that_q8_0_cannot_hold(tmp_path: Path) -> None:
    """The quickstart's rows of 80 are no multiple of 32; those of 192 (down_proj, two layers) are."""
    written = write_gguf(STUDENT, tmp_path / "m.gguf", dtype="q8_0")
    assert written.types == {"Q8_0": 2, "F16": 13, "F32": 5}
    kinds = [kind for kind, _, _ in tensors(written.path).values()]
    assert {kind: kinds.count(kind) for kind in set(kinds)} == written.types


@pytest.mark.parametrize("dtype", ["f32", "f16", "bf16", "q8_0"])
def test_the_size_is_known_before(dtype: GgufDtype, models: dict[str, Path], tmp_path: Path) -> None:
    nbytes = write_gguf(models["qwen3"], tmp_path / "m.gguf", dtype=dtype).nbytes
    needed = bytes_needed(models["qwen3"], dtype)
    assert nbytes <= needed <= nbytes + (2 << 20)
    assert nbytes == (tmp_path / "m.gguf").stat().st_size


def test_every_listed_model_can_be_converted(models: dict[str, Path]) -> None:
    assert {name: problem(folder) for name, folder in models.items()} == dict.fromkeys(models)
    assert problem(STUDENT) is None


@pytest.mark.parametrize("stored", ["a head of its own", "the embeddings twice"])
def test_a_head_that_the_config_says_nothing_of(stored: str, models: dict[str, Path], tmp_path: Path) -> None:
    """Gemma's is the embeddings where nothing is said; transformers takes one that is there and differs."""
    folder = tmp_path / "student"
    shutil.copytree(models["gemma3"], folder)
    weights = load_file(folder / "model.safetensors")
    embeddings = weights["model.embed_tokens.weight"]
    weights["lm_head.weight"] = embeddings.flip(0).clone() if stored == "a head of its own" else embeddings.clone()
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((folder / "config.json").read_text())
    config.pop("tie_word_embeddings", None)
    (folder / "config.json").write_text(json.dumps(config))
    path = write_gguf(folder, tmp_path / "m.gguf", dtype="f32").path
    assert ("output.weight" in tensors(path)) is (stored == "a head of its own")
    tokens = random_tokens(512)
    assert mean_kl(of_checkpoint(folder, tokens), of_gguf(path, tokens)) < 1e-6
    assert problem(folder) is None


# --- the name that llama.cpp reads too much into ---


def test_a_plain_model_called_phi_3_loads(models: dict[str, Path], tmp_path: Path) -> None:
    """llama.cpp looks for Phi-3's special tokens in any file of that name, and fails without them."""
    path = write_gguf(models["llama"], tmp_path / "m.gguf", dtype="f16", name="my-phi-3-killer").path
    model = Model.open(path, vocab_only=True)
    assert model.metadata["general.name"] == "my-Phi 3-killer"
    model.close()


def with_tokenizer(checkpoint: Path, folder: Path, change: Callable[[dict[str, Any]], None]) -> Path:
    """A copy of a checkpoint with another tokenizer.json."""
    shutil.copytree(checkpoint, folder)
    path = folder / "tokenizer.json"
    content = json.loads(path.read_text(encoding="utf-8"))
    change(content)
    path.write_text(json.dumps(content), encoding="utf-8")
    return folder


def as_phi3(content: dict[str, Any]) -> None:
    """Special tokens that swallow the spaces behind them, but for three."""
    plain = {"single_word": False, "lstrip": False, "normalized": False, "special": True}
    content["added_tokens"] = [
        {"id": 0, "content": "<unk>", "rstrip": False} | plain,
        {"id": 1, "content": "<s>", "rstrip": False} | plain,
        {"id": 2, "content": "</s>", "rstrip": True} | plain,
        {"id": 510, "content": "<|endoftext|>", "rstrip": False} | plain,
        {"id": 511, "content": "<|user|>", "rstrip": True} | plain,
    ]
    vocab = content["model"]["vocab"]
    gone = {text for text, i in vocab.items() if i >= 510}
    content["model"]["vocab"] = {text: i for text, i in vocab.items() if text not in gone}
    content["model"]["merges"] = [m for m in content["model"]["merges"] if not {*m, "".join(m)} & gone]


def test_tokens_that_swallow_spaces_as_phi_3s(models: dict[str, Path], tmp_path: Path) -> None:
    """The file is called so that llama.cpp lets them; then ids are equal, behind special tokens too."""
    folder = with_tokenizer(models["phi3"], tmp_path / "student", as_phi3)
    config = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
    (folder / "tokenizer_config.json").write_text(json.dumps(config | {"eos_token": "<|endoftext|>"}), encoding="utf-8")
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    (folder / "config.json").write_text(json.dumps(config | {"eos_token_id": 510}), encoding="utf-8")
    (folder / "generation_config.json").unlink()
    assert problem(folder) is None
    path = write_gguf(folder, tmp_path / "m.gguf", dtype="f16").path
    model = Model.open(path, vocab_only=True)
    assert model.metadata["general.name"] == "student (Phi-3)"
    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
    text = "<|user|>  hello there</s> \n and<s> so"
    assert list(model.vocabulary.encode(text, special=True)) == tokenizer(text, add_special_tokens=False).input_ids
    model.close()
