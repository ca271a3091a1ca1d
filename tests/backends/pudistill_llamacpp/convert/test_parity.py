"""Every architecture's float32 file computes in llama.cpp what the checkpoint computes in transformers."""

from __future__ import annotations

from pathlib import Path

import pytest

from pudistill_llamacpp.convert.writer import write_gguf
from tests.backends.pudistill_llamacpp.next_tokens import mean_kl, of_checkpoint, of_gguf, random_tokens
from tests.backends.random_models import MODELS

LIMIT, GELU_LIMIT = 1e-9, 1e-6
"""Nats. float32 sums in another order give 1e-12 to 1e-11; llama.cpp's GELU is a float16 table, which Gemma feels."""


@pytest.mark.parametrize("name", MODELS)
def test_the_same_next_tokens(name: str, models: dict[str, Path], tmp_path: Path) -> None:
    written = write_gguf(models[name], tmp_path / "model.gguf", dtype="f32")
    tokens = random_tokens(MODELS[name].vocabulary)
    kl = mean_kl(of_checkpoint(models[name], tokens), of_gguf(written.path, tokens))
    assert kl < (GELU_LIMIT if name.startswith("gemma") else LIMIT)
