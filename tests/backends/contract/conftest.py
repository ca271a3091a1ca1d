"""One engine of every backend on the quickstart's student, and an adapter that is read without any framework."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from pudistill_cli.backend_api.contract import Backend, Engine, ModelSpec
from tests.backends.contract.running import Placed, placed
from tests.tiny import STUDENT

NAMES = ("torch", "torch:cuda", "llamacpp", "mlx")
CONTEXT = 128
R, ALPHA = 4, 8.0
LINEAR = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


@pytest.fixture(scope="module", params=NAMES)
def place(request: pytest.FixtureRequest) -> Placed:
    """Every backend that can run here, on a CPU and, where there is one, on a graphics card."""
    return placed(request.param)


@pytest.fixture(scope="module")
def backend(place: Placed) -> Backend:
    return place.backend


@pytest.fixture(scope="session")
def kept_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Conversions of engines that live longer than a test."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PUDISTILL_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module")
def spec(place: Placed) -> ModelSpec:
    return ModelSpec(STUDENT, stop_tokens=(1,), context=CONTEXT, device=place.device, dtype="float32", threads=1)


@pytest.fixture(scope="module")
def engine(backend: Backend, spec: ModelSpec, kept_cache: None) -> Iterator[Engine]:
    opened = backend.open(spec)
    yield opened
    opened.close()


@pytest.fixture(scope="session")
def adapter(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A LoRA on every linear layer that changes every distribution."""
    return save_adapter(tmp_path_factory.mktemp("adapter") / "sft", seed=0)


@pytest.fixture(scope="session")
def other_adapter(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_adapter(tmp_path_factory.mktemp("other") / "round-1", seed=1)


def save_adapter(folder: Path, seed: int) -> Path:
    """PEFT's format, written by hand."""
    rng = np.random.default_rng(seed)
    weights = {}
    for name, weight in load_file(STUDENT / "model.safetensors").items():
        if name.split(".")[-2] in LINEAR:
            key = f"base_model.model.{name.removesuffix('.weight')}"
            rows, columns = weight.shape
            weights[f"{key}.lora_A.weight"] = rng.normal(scale=0.1, size=(R, columns)).astype(np.float32)
            weights[f"{key}.lora_B.weight"] = rng.normal(scale=0.1, size=(rows, R)).astype(np.float32)
    config = {
        "peft_type": "LORA", "task_type": "CAUSAL_LM", "r": R, "lora_alpha": ALPHA, "target_modules": list(LINEAR),
        "bias": "none", "inference_mode": True,
    }  # fmt: skip
    folder.mkdir(parents=True)
    (folder / "adapter_config.json").write_text(json.dumps(config), encoding="utf-8")
    save_file(weights, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    return folder
