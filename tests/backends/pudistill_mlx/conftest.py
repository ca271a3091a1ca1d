"""What the MLX backend's tests share: random models of several architectures, and adapters of theirs by peft."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

if not os.environ.get("EVERY_BACKEND"):  # as `make check` has it
    pytest.importorskip("mlx_lm", reason="needs the MLX backend: pip install 'pudistill[mlx]'")


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A checkpoint of random weights for every name in MODELS. Only to be read."""
    pytest.importorskip("torch", reason="needs torch and transformers, the other implementation")
    pytest.importorskip("transformers", reason="needs torch and transformers, the other implementation")
    from tests.backends.pudistill_mlx.models import MODELS, save_model

    folder = tmp_path_factory.mktemp("models")
    return {name: save_model(name, folder / name) for name in MODELS}
