"""An adapter in PEFT's format gives the log-probs of peft and of llama.cpp, whichever of them reads it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch", reason="needs torch, transformers and peft, the other implementation")
pytest.importorskip("peft", reason="needs torch, transformers and peft, the other implementation")

import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM

from pudistill_cli.backend_api.contract import ModelSpec
from pudistill_cli.errors import DataError
from pudistill_cli.types import Continuations
from tests.backends.pudistill_mlx.models import Textbook, open_engine, random_tokens

NAMES = ("llama", "qwen3", "gemma3", "phi3", "smollm3")
PREFIX = random_tokens(np.random.default_rng(0), 20)
ANSWERS = tuple(random_tokens(np.random.default_rng(i), 6 + i) for i in range(3))


def save_adapter(base: Path, folder: Path, **settings: Any) -> Path:
    """Random LoRA on every linear layer of the blocks, made by peft."""
    model: Any = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    linear = sorted({name.split(".")[-1] for name, _ in model.named_modules() if name.endswith("_proj")})
    model = get_peft_model(model, LoraConfig(**({"r": 4, "lora_alpha": 6, "target_modules": linear} | settings)))
    torch.manual_seed(1)
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def adapters(models: Mapping[str, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("adapters")
    return {name: save_adapter(models[name], folder / name) for name in NAMES}


def scored(engine: Any, adapter: Path | None) -> list[np.ndarray]:
    handle = None if adapter is None else engine.load_adapter(adapter)
    ((_, scores),) = engine.logprobs([Continuations(PREFIX, ANSWERS)], handle)
    return list(scores)


@pytest.mark.parametrize("name", NAMES)
def test_log_probs_are_pefts(models: Mapping[str, Path], adapters: dict[str, Path], name: str) -> None:
    engine, textbook = open_engine(models[name]), Textbook(models[name], adapters[name])
    with_adapter, bare = scored(engine, adapters[name]), scored(engine, None)
    for answer, adapted, other in zip(ANSWERS, with_adapter, bare, strict=True):
        np.testing.assert_allclose(adapted, textbook.of_answer(PREFIX, answer), atol=1e-4, rtol=0)
        assert np.abs(adapted - other).max() > 0.1
    engine.close()


@pytest.mark.parametrize("name", NAMES)
def test_log_probs_are_llama_cpps(models: Mapping[str, Path], adapters: dict[str, Path], name: str) -> None:
    llamacpp = pytest.importorskip("pudistill_llamacpp", reason="needs the llama.cpp backend").backend
    if llamacpp.problem() is not None:
        pytest.skip(f"needs the llama.cpp backend: {llamacpp.problem()}")
    other = llamacpp.open(ModelSpec(models[name], (2,), 256, device="cpu", dtype="float32", threads=1))
    engine = open_engine(models[name])
    # llama.cpp reads GELU from a table of 16-bit numbers.
    tolerance = 5e-3 if name.startswith("gemma") else 1e-4
    for ours, expected in zip(scored(engine, adapters[name]), scored(other, adapters[name]), strict=True):
        np.testing.assert_allclose(ours, expected, atol=tolerance, rtol=0)
    other.close()
    engine.close()


@pytest.mark.parametrize(
    "settings",
    [
        {"use_rslora": True},
        {"alpha_pattern": {"q_proj": 20}},
        {"rank_pattern": {"down_proj": 2}, "target_modules": ["q_proj", "down_proj"]},
    ],
    ids=lambda settings: next(iter(settings)),
)
def test_factors_that_differ_between_modules(
    models: Mapping[str, Path], tmp_path: Path, settings: dict[str, Any]
) -> None:
    adapter = save_adapter(models["llama"], tmp_path / "adapter", **settings)
    engine, textbook = open_engine(models["llama"]), Textbook(models["llama"], adapter)
    for answer, ours in zip(ANSWERS, scored(engine, adapter), strict=True):
        np.testing.assert_allclose(ours, textbook.of_answer(PREFIX, answer), atol=1e-4, rtol=0)


def test_what_was_read_is_written_as_it_was(
    models: Mapping[str, Path], adapters: dict[str, Path], tmp_path: Path
) -> None:
    """peft's weights come back bit by bit, under peft's names."""
    from safetensors.numpy import load_file

    from pudistill_mlx.adapter_files import write_adapter

    engine = open_engine(models["llama"])
    write_adapter(tmp_path, engine.model.adapter(engine.load_adapter(adapters["llama"])), r=4, alpha=6)
    ours, pefts = (load_file(folder / "adapter_model.safetensors") for folder in (tmp_path, adapters["llama"]))
    assert ours.keys() == pefts.keys()
    for name, weight in ours.items():
        np.testing.assert_array_equal(weight, pefts[name])
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    assert (config["r"], config["lora_alpha"], config["base_model_name_or_path"]) == (4, 6, None)
    textbook = Textbook(models["llama"], tmp_path)
    np.testing.assert_allclose(scored(engine, tmp_path)[0], textbook.of_answer(PREFIX, ANSWERS[0]), atol=1e-4, rtol=0)


@pytest.mark.parametrize("name", ["mistral", "phi3"], ids=["other shapes", "other names"])
def test_an_adapter_of_another_student_is_refused(
    models: Mapping[str, Path], adapters: dict[str, Path], name: str
) -> None:
    engine = open_engine(models[name])
    with pytest.raises(DataError, match=r"does not fit this student: model\.layers\.0\."):
        engine.load_adapter(adapters["llama"])
    assert np.isfinite(engine.distributions(PREFIX, 1, None)).all()


@pytest.mark.parametrize("broken", ["adapter_model.safetensors", "adapter_config.json"])
def test_half_an_adapter_is_refused(
    models: Mapping[str, Path], adapters: dict[str, Path], tmp_path: Path, broken: str
) -> None:
    for file in adapters["llama"].iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    (tmp_path / broken).write_bytes(b"{")
    with pytest.raises(DataError):
        open_engine(models["llama"]).load_adapter(tmp_path)
