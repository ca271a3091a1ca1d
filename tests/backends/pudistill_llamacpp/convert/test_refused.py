"""What cannot be converted is refused with a hint, and nothing is left under the final name; upstream's converter."""

from __future__ import annotations

import errno
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from pudistill_cli.errors import DataError, ExportError, PudistillError
from pudistill_llamacpp.convert import writer as writing
from pudistill_llamacpp.convert.feasibility import problem
from pudistill_llamacpp.convert.upstream_converter import convert_with_upstream
from pudistill_llamacpp.convert.writer import write_gguf
from pudistill_llamacpp.exporting import export_problem
from tests.backends.pudistill_llamacpp.convert.upstream_converter import tensors
from tests.backends.random_models import TOKENIZER, YARN
from tests.tiny import STUDENT


def with_config(**changes: Any) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        (folder / "config.json").write_text(json.dumps(config | changes), encoding="utf-8")

    return change


def with_json(change: Callable[[dict[str, Any]], object]) -> Callable[[Path], None]:
    def apply(folder: Path) -> None:
        path = folder / "tokenizer.json"
        content = json.loads(path.read_text(encoding="utf-8"))
        change(content)
        path.write_text(json.dumps(content), encoding="utf-8")

    return apply


def truncate(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-7])


SLIDING = ["full_attention", *["sliding_attention"] * 6]
REFUSED: list[tuple[str, Callable[[Path], None], str]] = [
    ("llama", with_config(model_type="mamba", architectures=["MambaForCausalLM"]), "mamba"),
    ("llama", with_config(architectures=["LlamaForSequenceClassification"]), "LlamaForSequenceClassification"),
    ("llama", with_config(rope_parameters={"rope_type": "dynamic", "factor": 2.0}), "dynamic"),
    ("llama", with_config(rope_parameters={"rope_type": "longrope"}), "longrope"),
    ("llama", with_config(rope_parameters={"rope_type": "yarn", "factor": 2.0}), "YaRN"),
    ("llama-yarn", with_config(rope_parameters=YARN | {"beta_fast": 16.0}), "beta_fast of 16.0"),
    ("llama-yarn", with_config(rope_parameters=YARN | {"beta_slow": 2}), "beta_slow of 2"),
    ("llama-yarn", with_config(rope_parameters=YARN | {"mscale": 0.7, "mscale_all_dim": 0.5}), "mscale of 0.7"),
    ("llama-yarn", with_config(rope_parameters=YARN | {"truncate": False}), "truncate"),
    ("llama-yarn", with_config(rope_parameters=YARN | {"factor": None}), "yarn RoPE scaling names no factor"),
    ("llama-linear", with_config(rope_parameters={"rope_type": "linear"}), "linear RoPE scaling names no factor"),
    ("llama", with_config(partial_rotary_factor=0.5), "only part of each head"),
    ("llama", with_config(hidden_act="gelu"), "gelu"),
    ("llama", with_config(quantization_config={"bits": 4}), "quantised"),
    ("llama", with_config(num_hidden_layers=3), "no tensor model.layers.2"),
    ("llama", with_config(num_hidden_layers=1), "no place"),
    ("llama", with_config(rms_norm_eps=None, hidden_size=None), "hidden_size"),
    ("llama", truncate, "not a whole safetensors file"),
    ("qwen2", with_config(use_sliding_window=True), "sliding window"),
    ("gemma2", with_config(query_pre_attn_scalar=100), "query_pre_attn_scalar"),
    ("gemma2", with_config(tie_word_embeddings=False), "its head is not the embeddings"),
    ("gemma2", with_config(layer_types=["full_attention", "full_attention"]), "full attention"),
    ("gemma3", with_config(layer_types=SLIDING), "full attention"),
    ("phi3-long", with_config(num_key_value_heads=2, head_dim=8), "hidden_size"),
    ("smollm3", with_config(no_rope_layers=[1, 0, 1, 0, 1]), "without RoPE"),
    ("qwen2", with_json(lambda c: c.update(pre_tokenizer={"type": "Whitespace"})), "pre-tokenizer"),
    ("qwen2", with_json(lambda c: c.update(normalizer={"type": "Lowercase"})), "Lowercase"),
    ("qwen2", with_json(lambda c: c["added_tokens"][3].update(lstrip=True)), "before it"),
    ("qwen2", with_json(lambda c: c["added_tokens"][3].update(rstrip=True)), "behind it"),
    ("llama", with_json(lambda c: c["model"].update(byte_fallback=False)), "fall-back"),
    ("llama", with_json(lambda c: c["model"]["vocab"].pop("<0x0A>")), "<0x0A>"),
    ("llama", with_json(lambda c: c["normalizer"]["normalizers"].append({"type": "NFKC"})), "NFKC"),
]


@pytest.mark.parametrize(("name", "change", "reason"), REFUSED, ids=[f"{n}-{r}" for n, _, r in REFUSED])
def test_refused_before_anything_is_written(
    name: str, change: Callable[[Path], None], reason: str, models: dict[str, Path], tmp_path: Path
) -> None:
    folder = tmp_path / "student"
    shutil.copytree(models[name], folder)
    change(folder)
    assert reason in (problem(folder) or "")
    with pytest.raises(PudistillError, match=reason) as caught:
        write_gguf(folder, tmp_path / "out" / "m.gguf", dtype="f16")
    assert isinstance(caught.value, ExportError | DataError)
    assert caught.value.hint
    assert not (tmp_path / "out").exists() or not list((tmp_path / "out").iterdir())


def test_a_weight_too_large_for_float16(models: dict[str, Path], tmp_path: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(models["llama"], dtype=torch.float32)
    with torch.no_grad():
        model.model.layers[0].mlp.up_proj.weight[0, 0] = 1e5
    model.save_pretrained(tmp_path / "student")
    for name in TOKENIZER[:2]:
        shutil.copy(models["llama"] / name, tmp_path / "student")
    with pytest.raises(ExportError, match=r"up_proj.*float16"):
        write_gguf(tmp_path / "student", tmp_path / "m.gguf", dtype="f16")
    assert not list(tmp_path.glob("*.gguf")) + list(tmp_path.glob(".*"))
    assert write_gguf(tmp_path / "student", tmp_path / "m.gguf", dtype="bf16").path.is_file()
    for format, variant in (("gguf", "f16"), ("gguf-adapter", "")):  # whose base is in f16
        told = export_problem(tmp_path / "student", format, variant, None)
        assert told is not None
        assert "model.layers.0.mlp.up_proj.weight is beyond the largest number of float16" in told
        assert "--set export.quants=[bf16]" in told
    for variant in ("bf16", "q8_0", "f32", "q4_k_m"):
        assert export_problem(tmp_path / "student", "gguf", variant, None) is None


def test_rows_that_q8_0_stores_in_float16(tmp_path: Path) -> None:
    """The quickstart's rows of 80 are no multiple of 32, and its file of q8_0 has them in float16."""
    shutil.copytree(STUDENT, tmp_path / "student")
    weights = load_file(STUDENT / "model.safetensors")
    weights["model.layers.0.self_attn.q_proj.weight"][0, 0] = -7e4
    save_file(weights, tmp_path / "student" / "model.safetensors", metadata={"format": "pt"})
    assert "q_proj.weight is beyond" in str(export_problem(tmp_path / "student", "gguf", "q8_0", None))
    assert export_problem(tmp_path / "student", "gguf", "bf16", None) is None


def test_a_disk_that_fills_up(models: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An older file stays as it was, and nothing else is left."""
    (tmp_path / "m.gguf").write_bytes(b"older")

    def full(tensor: object, values: object) -> NoReturn:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(writing, "stored", full)
    with pytest.raises(ExportError, match="No space left") as caught:
        write_gguf(models["llama"], tmp_path / "m.gguf", dtype="f16")
    assert caught.value.hint
    assert [p.name for p in tmp_path.iterdir()] == ["m.gguf"]
    assert (tmp_path / "m.gguf").read_bytes() == b"older"


def test_a_disk_that_is_full(models: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage._replace(free=1000))
    with pytest.raises(ExportError, match="are free"):
        write_gguf(models["llama"], tmp_path / "m.gguf", dtype="f16")
    assert not list(tmp_path.iterdir())


# --- upstream's converter, at the user's wish ---


def test_upstreams_converter(models: dict[str, Path], adapter: Path, upstream: Path, tmp_path: Path) -> None:
    """It writes the merged tensors that ours writes, and leaves nothing beside them."""
    convert_with_upstream(upstream, models["llama"], tmp_path / "out" / "m.gguf", dtype="f16", adapter=adapter)
    ours = write_gguf(models["llama"], tmp_path / "ours.gguf", dtype="f16", adapter=adapter)
    assert tensors(tmp_path / "out" / "m.gguf") == tensors(ours.path)
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["m.gguf"]


def test_upstreams_converter_fails(models: dict[str, Path], upstream: Path, tmp_path: Path) -> None:
    """It knows a byte-level vocabulary by its ids, and a test's vocabulary is not among them."""
    with pytest.raises(ExportError, match="converter failed") as caught:
        convert_with_upstream(upstream, models["qwen3"], tmp_path / "out" / "m.gguf", dtype="f16")
    assert "convert_hf_to_gguf.py" in caught.value.hint
    assert not list((tmp_path / "out").iterdir())


def test_no_checkout(models: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"convert_hf_to_gguf\.py"):
        convert_with_upstream(tmp_path, models["qwen3"], tmp_path / "m.gguf", dtype="f16")
