"""GGUF files to export from, and upstream's server."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from transformers import LlamaConfig

from pudistill_cli.models.student import resolve_student
from pudistill_llamacpp.convert.writer import write_gguf
from tests.backends.random_models import save_bpe, save_random
from tests.tiny import ROOT


@pytest.fixture(scope="session")
def stories(shared: Path) -> Path:
    """A real pretrained checkpoint: 64 columns, and 172 in the MLP."""
    return shared / "models" / "stories260K"


@pytest.fixture(scope="session")
def stories_gguf(stories: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same in float32."""
    return write_gguf(stories, tmp_path_factory.mktemp("stories") / "stories-f32.gguf", dtype="f32").path


@pytest.fixture(scope="session")
def wide_gguf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random weights of two blocks with 256 columns, which every type can hold; embeddings tied."""
    folder = tmp_path_factory.mktemp("wide")
    config = LlamaConfig(
        hidden_size=256,
        intermediate_size=256,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=1,
        vocab_size=768,
        max_position_embeddings=256,
        tie_word_embeddings=True,
        bos_token_id=2,
        eos_token_id=1,
    )
    save_bpe(save_random(config, folder))
    return write_gguf(folder, folder / "wide-f32.gguf", dtype="f32").path


@pytest.fixture(scope="session")
def story_tokens(stories: Path) -> list[tuple[int, ...]]:
    """Real text of the stories recipe, as the stories model reads it."""
    tokenizer = resolve_student(str(stories), format="text").tokenizer
    lines = (ROOT / "recipes" / "stories" / "anchors.jsonl").read_text("utf-8").splitlines()
    anchors = [json.loads(line) for line in lines]
    return [tokenizer.encode_text(a["prompt"] + a["answer"]) for a in anchors]


@pytest.fixture(scope="session")
def llama_server(upstream: Path) -> Path:
    """Upstream's own server, built from its sources."""
    program = upstream.parents[1] / "programs" / "bin" / "llama-server"
    if not program.is_file():
        pytest.skip("needs llama-server, built from llama-cpp-python's source distribution")
    return program
