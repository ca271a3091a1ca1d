"""A PEFT adapter in llama.cpp gives what peft gives, and its file what upstream's converter writes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gguf import GGUFReader
from safetensors.numpy import load_file, save_file

from pudistill_cli.errors import BackendError, DataError
from pudistill_cli.types import Continuations, Sampling
from pudistill_llamacpp.lora_gguf import write_lora_gguf
from tests.backends.pudistill_llamacpp.engines import (
    assert_identical,
    make_prompts,
    open_engine,
    random_tokens,
    sampled,
)
from tests.backends.pudistill_llamacpp.next_tokens import normalised
from tests.backends.random_models import MODELS
from tests.once import Once

NAMES = tuple(name for name in MODELS if name != "phi3-long")  # the adapter does not depend on its factors
_DRIVER = """
import runpy, sys
upstream = sys.argv[1]
sys.path[:0] = [upstream, upstream + "/gguf-py"]
for job in sys.argv[2].split("|"):
    base, adapter, out = job.split(";")
    sys.argv = ["convert_lora", adapter, "--base", base, "--outfile", out]
    runpy.run_path(upstream + "/convert_lora_to_gguf.py", run_name="__main__")
"""


def save_adapter(base: Path, folder: Path, **settings: Any) -> Path:
    """Random LoRA on every linear layer of the blocks, made by peft."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    linear = sorted(
        {n.split(".")[-1] for n, m in model.named_modules() if n.endswith("_proj") and hasattr(m, "weight")}
    )
    config = LoraConfig(**({"r": 4, "lora_alpha": 6, "target_modules": linear} | settings))
    model = get_peft_model(model, config)
    torch.manual_seed(1)
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    model.save_pretrained(folder)
    return folder


def peft_logprobs(base: Path, adapter: Path, tokens: tuple[int, ...]) -> np.ndarray:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32, attn_implementation="eager")
    with torch.no_grad():
        return normalised(PeftModel.from_pretrained(model, str(adapter))(torch.tensor([tokens])).logits[0].numpy())


@pytest.fixture(scope="module")
def pairs(models: dict[str, Path], once: Once) -> Mapping[str, tuple[Path, Path]]:
    """A model of each architecture, and an adapter of it."""
    folder = once("adapters", lambda folder: [save_adapter(models[name], folder / name) for name in NAMES])
    return {name: (models[name], folder / name) for name in NAMES}


# --- what it computes ---


@pytest.mark.parametrize("name", NAMES)
def test_logprobs_are_pefts(pairs: Mapping[str, tuple[Path, Path]], name: str) -> None:
    base, adapter = pairs[name]
    tokens = random_tokens(np.random.default_rng(0), 48)
    engine = open_engine(base)
    handle = engine.load_adapter(adapter)
    logprobs, bare = engine.distributions(tokens, 40, handle), engine.distributions(tokens, 40, None)
    engine.close()
    expected = peft_logprobs(base, adapter, tokens)[-40:]
    # llama.cpp reads GELU from a table of 16-bit numbers.
    np.testing.assert_allclose(logprobs, expected, atol=5e-3 if name.startswith("gemma") else 1e-4)
    assert np.abs(bare - expected).max() > 0.5


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
    pairs: Mapping[str, tuple[Path, Path]], tmp_path: Path, settings: dict[str, Any]
) -> None:
    base = pairs["llama"][0]
    adapter = save_adapter(base, tmp_path / "adapter", **settings)
    tokens = random_tokens(np.random.default_rng(0), 30)
    engine = open_engine(base)
    logprobs = engine.distributions(tokens, 20, engine.load_adapter(adapter))
    engine.close()
    np.testing.assert_allclose(logprobs, peft_logprobs(base, adapter, tokens)[-20:], atol=1e-4)


@pytest.mark.parametrize("name", ["llama", "qwen2"])
def test_a_wrong_order_of_rows_would_show(
    pairs: Mapping[str, tuple[Path, Path]], name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The RoPE permutation left out where it belongs, or applied where it does not."""
    from pudistill_llamacpp.convert.architectures.layout import Architecture, permuted_rows

    base, adapter = pairs[name]

    def converted(self: Architecture, module: str, values: np.ndarray, hyper: Any) -> np.ndarray:
        permute = name != "llama" and "q_proj" in module
        return permuted_rows(values, hyper.heads) if permute else values

    engine = open_engine(base)
    monkeypatch.setattr(Architecture, "converted", converted)
    tokens = random_tokens(np.random.default_rng(0), 30)
    logprobs = engine.distributions(tokens, 20, engine.load_adapter(adapter))
    engine.close()
    assert np.abs(logprobs - peft_logprobs(base, adapter, tokens)[-20:]).max() > 0.1


# --- what it writes ---


@pytest.fixture(scope="module")
def written(
    pairs: Mapping[str, tuple[Path, Path]], upstream: Path, once: Once
) -> Mapping[str, tuple[GGUFReader, GGUFReader]]:
    """For each architecture our file and upstream's."""

    def write(folder: Path) -> None:
        jobs = []
        for name, (base, adapter) in pairs.items():
            config = json.loads((base / "config.json").read_text())
            write_lora_gguf(adapter, config, folder / f"{name}.gguf", name="adapter")
            jobs.append(f"{base};{adapter};{folder / name}-upstream.gguf")
        arguments = [str(upstream), "|".join(jobs)]
        environment = os.environ | {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
        done = subprocess.run(
            [sys.executable, "-c", _DRIVER, *arguments], env=environment, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr[-3000:]

    folder = once("lora", write)
    return {n: (GGUFReader(folder / f"{n}.gguf"), GGUFReader(folder / f"{n}-upstream.gguf")) for n in pairs}


@pytest.mark.parametrize("name", NAMES)
def test_tensors_equal_upstreams(written: Mapping[str, tuple[GGUFReader, GGUFReader]], name: str) -> None:
    ours, theirs = ({t.name: t for t in reader.tensors} for reader in written[name])
    assert ours.keys() == theirs.keys()
    for key, tensor in ours.items():
        assert (tensor.tensor_type, tensor.shape.tolist()) == (theirs[key].tensor_type, theirs[key].shape.tolist())
        assert tensor.data.tobytes() == theirs[key].data.tobytes(), key


@pytest.mark.parametrize("name", NAMES)
def test_metadata_equals_upstreams(written: Mapping[str, tuple[GGUFReader, GGUFReader]], name: str) -> None:
    ours, theirs = ({k: f.contents() for k, f in r.fields.items() if k[:5] != "GGUF."} for r in written[name])
    # What upstream guesses from the folder's name, its config and its card: not what loads an adapter.
    guessed = {k for k in theirs if k.startswith("general.") and k not in ours} | {"general.name"}
    assert {k: v for k, v in ours.items() if k not in guessed} == {k: v for k, v in theirs.items() if k not in guessed}
    assert ours["general.name"] == "adapter"
    assert ours["adapter.lora.alpha"] == 6.0


def test_a_gguf_adapter_is_loaded_as_it_is(pairs: Mapping[str, tuple[Path, Path]], tmp_path: Path) -> None:
    base, adapter = pairs["qwen3"]
    write_lora_gguf(adapter, json.loads((base / "config.json").read_text()), tmp_path / "adapter.gguf")
    engine = open_engine(base)
    one, other = engine.load_adapter(adapter), engine.load_adapter(tmp_path / "adapter.gguf")
    tokens = random_tokens(np.random.default_rng(0), 20)
    np.testing.assert_array_equal(engine.distributions(tokens, 9, one), engine.distributions(tokens, 9, other))
    engine.close()


# --- beside each other ---


def test_loaded_without_touching_the_model(pairs: Mapping[str, tuple[Path, Path]]) -> None:
    """The same model object before and after, and the base's numbers to the last bit."""
    base, adapter = pairs["llama"]
    engine = open_engine(base)
    asked = [Continuations((5, 6, 7), ((8, 9), (10,)))]
    model = engine.student.model
    ((_, before),) = engine.logprobs(asked, None)
    judge, policy = engine.load_adapter(adapter), engine.load_adapter(adapter)
    ((_, one),) = engine.logprobs(asked, judge)
    engine.drop_adapter(judge)
    ((_, other),) = engine.logprobs(asked, policy)
    ((_, after),) = engine.logprobs(asked, None)
    assert engine.student.model is model
    for a, b in zip((*before, *one), (*after, *other), strict=True):
        np.testing.assert_array_equal(a, b)
    with pytest.raises(BackendError, match="No adapter"):
        list(engine.logprobs(asked, judge))
    engine.close()


def test_dropped_while_it_samples(pairs: Mapping[str, tuple[Path, Path]]) -> None:
    """What is under way goes on with it; its memory is given back afterwards."""
    base, adapter = pairs["llama"]
    engine = open_engine(base, sample_rows=4)
    prompts = make_prompts(4)
    handle = engine.load_adapter(adapter)
    expected = sampled(engine, prompts, handle)
    by_key, groups = {}, engine.sample(prompts, 4, Sampling(24, seed=5), handle)
    for i, group in groups:
        engine.drop_adapter(handle)
        by_key[prompts[i].key] = group
    assert_identical(expected, by_key)
    engine.close()


# --- bad adapters ---


def test_an_adapter_of_another_model(pairs: Mapping[str, tuple[Path, Path]], tmp_path: Path) -> None:
    base = pairs["llama"][0]
    engine = open_engine(base)
    for other, message in (("smollm3", "model.layers.2"), ("phi3", "gate_up_proj"), ("qwen2", "incorrect shape")):
        with pytest.raises(DataError, match=message) as caught:
            engine.load_adapter(pairs[other][1])
        assert str(pairs[other][1]) in caught.value.message
        assert "trained on" in caught.value.hint
    engine.close()


def test_broken_adapters(pairs: Mapping[str, tuple[Path, Path]], tmp_path: Path) -> None:
    base, adapter = pairs["llama"]
    engine = open_engine(base)
    with pytest.raises(DataError, match="There is no adapter"):
        engine.load_adapter(tmp_path / "missing")
    folder = tmp_path / "adapter"
    folder.mkdir()
    (folder / "adapter_config.json").write_bytes((adapter / "adapter_config.json").read_bytes())
    with pytest.raises(DataError, match="holds no adapter_model"):
        engine.load_adapter(folder)
    weights = (adapter / "adapter_model.safetensors").read_bytes()
    (folder / "adapter_model.safetensors").write_bytes(weights[: len(weights) // 2])
    with pytest.raises(DataError):
        engine.load_adapter(folder)
    tensors = load_file(adapter / "adapter_model.safetensors")
    tensors.pop(next(iter(tensors)))
    save_file(tensors, folder / "adapter_model.safetensors")
    with pytest.raises(DataError, match="do not fit each other"):
        engine.load_adapter(folder)
    (tmp_path / "cut.gguf").write_bytes(b"GGUF")
    with pytest.raises(DataError, match="cannot load the adapter"):
        engine.load_adapter(tmp_path / "cut.gguf")
    engine.close()
