"""Checkpoints whose parts MLX cannot branch, adapt or read: refused by name, from headers alone where that can be."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from pudistill_cli.errors import BackendError, DataError
from pudistill_cli.models.checkpoint_files import read_json
from pudistill_mlx import backend
from tests.backends.pudistill_mlx.small import spec_of
from tests.tiny import STUDENT

SIZES: dict[str, Any] = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}


@pytest.fixture
def weights() -> dict[str, np.ndarray]:
    return load_file(STUDENT / "model.safetensors")


def save(folder: Path, weights: dict[str, np.ndarray], **changes: Any) -> Path:
    """The quickstart's student with other weights and other entries of its config."""
    config = {**read_json(STUDENT / "config.json"), **changes}
    (folder / "config.json").write_text(json.dumps(config))
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("mixtral", SIZES | {"num_local_experts": 2}, "expert layers"),
        ("mamba", {"vocab_size": 64, "hidden_size": 16, "state_size": 4, "num_hidden_layers": 1}, "not those of a"),
        ("falcon_h1", SIZES, "recurrent layers"),
        ("gptj", {"vocab_size": 64, "n_embd": 32, "n_layer": 2, "n_head": 4, "rotary_dim": 8}, "no linear layers"),
        ("bloom", {"vocab_size": 64, "hidden_size": 32, "n_layer": 2, "n_head": 4}, "cannot build 'bloom'"),
    ],
)
def test_an_architecture_that_does_not_fit(tmp_path: Path, name: str, settings: dict[str, Any], message: str) -> None:
    pytest.importorskip("torch", reason="needs torch and transformers, which write the checkpoint")
    transformers = pytest.importorskip("transformers", reason="needs torch and transformers")
    config = transformers.AutoConfig.for_model(name, **settings)
    transformers.AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
    assert message in str(backend.refusal(tmp_path))
    with pytest.raises(BackendError, match="MLX cannot run"):
        backend.open(spec_of(tmp_path))


def test_a_file_of_mlx_lm_that_ends_the_process(tmp_path: Path, weights: dict[str, np.ndarray]) -> None:
    if find_spec("hf_olmo") is not None:
        pytest.skip("needs hf_olmo not to be installed")
    assert "needs another package for 'olmo'" in str(backend.refusal(save(tmp_path, weights, model_type="olmo")))


def test_the_quickstarts_student_is_not_refused() -> None:
    assert backend.refusal(STUDENT) is None


def test_a_layer_of_another_name(tmp_path: Path, weights: dict[str, np.ndarray]) -> None:
    """mlx-lm may rename what it loads; an adapter is named by the checkpoint."""
    weights = {name.replace("q_proj", "query"): weight for name, weight in weights.items()}
    assert "calls model.layers.0.self_attn.q_proj what the checkpoint" in str(backend.refusal(save(tmp_path, weights)))


def test_a_layer_of_another_shape(tmp_path: Path, weights: dict[str, np.ndarray]) -> None:
    name = "model.layers.1.mlp.up_proj.weight"
    weights[name] = np.ascontiguousarray(weights[name].T)
    assert "holds model.layers.1.mlp.up_proj in another shape" in str(backend.refusal(save(tmp_path, weights)))


def test_missing_weights(tmp_path: Path, weights: dict[str, np.ndarray]) -> None:
    del weights["model.norm.weight"]
    folder = save(tmp_path, weights)
    assert "mlx-lm cannot load it: Missing 1 parameters: model.norm.weight" in str(backend.refusal(folder))
    with pytest.raises(DataError, match=r"cannot be loaded: .*model\.norm\.weight"):
        backend.open(spec_of(folder))


def test_weights_that_mlx_lm_has_no_place_for(tmp_path: Path, weights: dict[str, np.ndarray]) -> None:
    """As the biases of a Qwen3 with attention_bias: a model without them is another one."""
    biases = {name.replace(".weight", ".bias"): np.ones(80, np.float32) for name in weights if "q_proj" in name}
    weights |= {f"model.layers.{i}.self_attn.{n}_norm.weight": np.ones(20, np.float32) for i in range(2) for n in "qk"}
    folder = save(tmp_path, weights | biases, model_type="qwen3", head_dim=20)
    assert "has no place for 2 of its weights, model.layers." in str(backend.refusal(folder))
    with pytest.raises(BackendError, match=r"no place for 2 of its weights, .*q_proj\.bias among"):
        backend.open(spec_of(folder))


def test_norms_of_another_shape(tmp_path: Path, weights: dict[str, np.ndarray]) -> None:
    weights["model.norm.weight"] = weights["model.norm.weight"][:-1].copy()
    assert "mlx-lm cannot load it: Expected shape (80,)" in str(backend.refusal(save(tmp_path, weights)))


def test_layers_that_are_not_attention(tmp_path: Path, weights: dict[str, np.ndarray]) -> None:
    folder = save(tmp_path, weights, layer_types=["conv", "full_attention"])
    assert backend.refusal(folder) == "it has layers that are not plain attention (conv)."
    with pytest.raises(BackendError, match="not plain attention"):
        backend.open(spec_of(folder))


def test_shards_that_mlx_lm_does_not_look_for(tmp_path: Path, weights: dict[str, np.ndarray]) -> None:
    folder = save(tmp_path, weights)
    (folder / "model.safetensors").rename(folder / "part.safetensors")
    index = {"weight_map": dict.fromkeys(weights, "part.safetensors")}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    assert backend.refusal(folder) == "mlx-lm reads model*.safetensors only, and its weights are in part.safetensors."


def test_weights_in_float64(tmp_path: Path, weights: dict[str, np.ndarray]) -> None:
    wide = {name: weight.astype(np.float64) for name, weight in weights.items()}
    assert "mlx-lm cannot load it: [safetensor] unsupported dtype F64" in str(backend.refusal(save(tmp_path, wide)))


def test_weights_that_are_not_finite(tmp_path: Path, weights: dict[str, np.ndarray]) -> None:
    weights["model.norm.weight"] = np.full_like(weights["model.norm.weight"], np.nan)
    with pytest.raises(DataError, match="not finite"):
        backend.open(spec_of(save(tmp_path, weights)))


def test_pickled_weights(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_bytes((STUDENT / "config.json").read_bytes())
    (tmp_path / "pytorch_model.bin").write_bytes(b"no tensors")
    with pytest.raises(DataError, match="a pickle"):
        backend.open(spec_of(tmp_path))


def test_code_of_the_checkpoint_is_not_run(tmp_path: Path, weights: dict[str, np.ndarray]) -> None:
    """mlx-lm runs a file that the config names, if it is allowed to."""
    (tmp_path / "own.py").write_text("raise SystemExit('was run')")
    with pytest.raises(DataError, match=r"requires importing and running a custom module"):
        backend.open(spec_of(save(tmp_path, weights, model_file="own.py")))


def test_a_part_of_mlx_lm_that_cannot_be_batched(monkeypatch: pytest.MonkeyPatch) -> None:
    """Found by running a few tokens in every way, not by the architecture's name."""
    from pudistill_mlx.cache import LayerRows

    # A model that makes its own mask sees the padding.
    monkeypatch.setattr(LayerRows, "make_mask", lambda self, length, **_: None if length == 1 else "causal")
    with pytest.raises(BackendError, match="'llama' cannot be run in batches"):
        backend.open(spec_of())


def test_four_bits_of_layers_that_are_too_narrow() -> None:
    """80 and 192 columns: only down_proj's is a multiple of 64."""
    engine = backend.open(spec_of(base="4bit"))
    held = {name for name, module in engine.model.causal.named_modules() if hasattr(module, "bits")}
    assert {name.rsplit(".", 2)[-2] for name in held} == {"down_proj"}


def test_four_bits_of_nothing(tmp_path: Path, weights: dict[str, np.ndarray]) -> None:
    narrow = {
        name: weight[:, :100].copy() if "down_proj" in name else weight[:100].copy() if "mlp" in name else weight
        for name, weight in weights.items()
    }
    with pytest.raises(BackendError, match="no multiples of 64") as error:
        backend.open(spec_of(save(tmp_path, narrow, intermediate_size=100), base="4bit"))
    assert "lora.base=bf16" in error.value.hint
