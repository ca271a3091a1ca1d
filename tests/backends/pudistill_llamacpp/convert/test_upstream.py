"""Every key and every tensor is what upstream's converter writes, but for a few with reasons."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pudistill_llamacpp.convert.writer import GgufDtype, write_gguf
from tests.backends.pudistill_llamacpp.convert.upstream_converter import convert, metadata, tensors
from tests.backends.random_models import MODELS
from tests.once import Once

TYPES: tuple[GgufDtype, ...] = ("f32", "f16", "bf16", "q8_0")

ADDED = {
    "tokenizer.ggml.add_bos_token": "left to llama.cpp's default there where the checkpoint says nothing",
    "tokenizer.ggml.add_eos_token": "the same",
    "tokenizer.ggml.add_space_prefix": "read from tokenizer.json; there, only for some model classes",
    "tokenizer.ggml.eot_token_id": "every token that ends an answer is named; there, a runtime goes by its text",
}
"""Keys that upstream may leave out."""
LEFT_OUT = {
    "tokenizer.ggml.add_sep_token": "of encoders; no runtime reads it for a causal model",
    "general.base_model.count": "not in a checkpoint's files",
}
"""Keys that only upstream writes."""
OTHER: dict[tuple[str, str], str] = {
    ("mistral", "llama.context_length"): "no longer than the window, which llama.cpp does not have for llama",
    ("llama-yarn", "llama.rope.scaling.attn_factor"): "llama.cpp ignores the key below, and transformers does not",
    ("llama-yarn", "llama.rope.scaling.yarn_attn_factor"): "ignored when llama.cpp computes YaRN",
    (
        "smollm3",
        "smollm3.attention.key_length",
    ): "written for every architecture whose heads may have a width of their own",
    ("smollm3", "smollm3.attention.value_length"): "the same",
}
"""Keys of one model that differ."""
COMPARED_BY_MEANING = {"tokenizer.ggml.scores", "tokenizer.ggml.token_type"}


@pytest.fixture(scope="module")
def files(upstream: Path, models: dict[str, Path], once: Once) -> Path:
    """`<name>-<type>.gguf` in `ours` and `upstream`."""

    def write(folder: Path) -> None:
        (folder / "upstream").mkdir()
        jobs: list[tuple[Path, Path, str, str | None]] = []
        for name, checkpoint in models.items():
            pre = "smollm" if MODELS[name].tokenizer == "bpe" else None
            for dtype in TYPES if name in ("llama", "gemma2") else TYPES[:1]:
                write_gguf(checkpoint, folder / "ours" / f"{name}-{dtype}.gguf", dtype=dtype, name="model")
                jobs.append((checkpoint, folder / "upstream" / f"{name}-{dtype}.gguf", dtype, pre))
        convert(upstream, jobs)

    return once("converted", write)


@pytest.mark.parametrize("name", MODELS)
def test_every_tensor(name: str, files: Path) -> None:
    assert tensors(files / "ours" / f"{name}-f32.gguf") == tensors(files / "upstream" / f"{name}-f32.gguf")


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("name", ["llama", "gemma2"])
def test_every_type(name: str, dtype: str, files: Path) -> None:
    assert tensors(files / "ours" / f"{name}-{dtype}.gguf") == tensors(files / "upstream" / f"{name}-{dtype}.gguf")


@pytest.mark.parametrize("name", MODELS)
def test_every_key(name: str, files: Path) -> None:
    ours, theirs = (metadata(files / side / f"{name}-f32.gguf") for side in ("ours", "upstream"))
    excused = {key for model, key in OTHER if model == name}
    assert ours.keys() - theirs.keys() <= ADDED.keys() | excused
    assert theirs.keys() - ours.keys() <= LEFT_OUT.keys() | excused
    assert merge_order(ours) == merge_order(theirs)
    assert kinds(ours) == kinds(theirs)
    shared = ours.keys() & theirs.keys() - excused - COMPARED_BY_MEANING
    assert {k: ours[k] for k in shared} == {k: theirs[k] for k in shared}


def kinds(keys: dict[str, Any]) -> list[int]:
    """Types by id, the unknown token's as a control token's: llama.cpp treats them alike, upstream writes either."""
    return [3 if kind == 2 else kind for kind in keys["tokenizer.ggml.token_type"][0]]


def merge_order(keys: dict[str, Any]) -> list[int]:
    """Ids of a SentencePiece-like vocabulary's longer pieces by score.

    Ours are ranks of merges, upstream's are SentencePiece's own, and only their order counts.
    """
    if "tokenizer.ggml.scores" not in keys:
        return []
    texts, scores, types = (keys[f"tokenizer.ggml.{k}"][0] for k in ("tokens", "scores", "token_type"))
    longer = [i for i, text in enumerate(texts) if len(text) > 1 and types[i] == 1]
    return sorted(longer, key=lambda i: -scores[i])
