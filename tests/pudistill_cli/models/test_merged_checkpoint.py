"""Merged weights against PEFT's own merge, and what 16 bits lose of a small update."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pudistill_cli.errors import ExportError
from pudistill_cli.models.merged_checkpoint import merge_lora
from pudistill_cli.models.safetensors_io import TensorSpec, from_float32, stored_tensors, to_float32, write_tensors

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
peft = pytest.importorskip("peft")

SHAPE = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}


def _llama(dtype: Any, tied: bool = False) -> Any:
    torch.manual_seed(0)
    config = transformers.LlamaConfig(**SHAPE, tie_word_embeddings=tied)
    return transformers.LlamaForCausalLM(config).to(dtype)


def _trained(model: Any, folder: Path, **settings: Any) -> Any:
    """An adapter as training leaves it: neither half is zero."""
    wrapped = peft.get_peft_model(model, peft.LoraConfig(**{"r": 4, "lora_alpha": 8, **settings}))
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in wrapped.named_parameters():
            if "lora_" in name:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.1)
    wrapped.save_pretrained(folder, save_embedding_layers=False)
    return wrapped


def _values(folder: Path) -> dict[str, np.ndarray]:
    tensors = [t for path in sorted(folder.glob("*.safetensors")) for t in stored_tensors(path)]
    return {t.spec.name: to_float32(t.read(), t.spec.dtype).reshape(t.spec.shape) for t in tensors}


def _equals_pefts_merge(wrapped: Any, out: Path, **tolerance: float) -> None:
    reference = wrapped.merge_and_unload()
    merged = transformers.AutoModelForCausalLM.from_pretrained(out, dtype="auto")
    expected, actual = reference.state_dict(), merged.state_dict()
    assert expected.keys() == actual.keys()
    for name, tensor in expected.items():
        assert actual[name].dtype == torch.float32
        torch.testing.assert_close(actual[name], tensor.float(), rtol=0, **tolerance)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint in float32 with the files that lie beside one."""
    folder = tmp_path_factory.mktemp("base")
    _llama(torch.float32).save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "merges.txt", "LICENSE"):
        (folder / name).write_text(f"the {name}")
    for name in ("modeling_x.py", "pytorch_model.bin", "README.md", "notes.txt"):
        (folder / name).write_text("stays where it is")
    return folder


SETTINGS = {
    "all linear layers": {"target_modules": "all-linear"},
    "rslora": {"target_modules": ["q_proj", "down_proj"], "use_rslora": True},
    "patterns": {
        "target_modules": ["q_proj", "v_proj", "up_proj"],
        "rank_pattern": {"q_proj": 8, r"layers\.1\.mlp\.up_proj": 2},
        "alpha_pattern": {r"layers\.0\..*": 3, "v_proj": 32},
    },
    "untied head": {"target_modules": ["lm_head", "k_proj"]},
}


@pytest.mark.parametrize("settings", SETTINGS.values(), ids=list(SETTINGS))
def test_the_merge_is_pefts(tmp_path: Path, base: Path, settings: dict[str, Any]):
    wrapped = _trained(_llama(torch.float32), tmp_path / "adapter", **settings)
    adapted = sum("lora_A" in name for name, _ in wrapped.named_parameters())
    report = merge_lora(base, tmp_path / "adapter", tmp_path / "out")
    _equals_pefts_merge(wrapped, tmp_path / "out", atol=1e-6)
    assert report.tensors == adapted
    assert report.unchanged_share < 0.001
    assert report.relative_error == 0


def test_a_gpt2_with_its_weights_in_by_out_and_its_bodys_name_left_out(tmp_path: Path):
    torch.manual_seed(0)
    config = transformers.GPT2Config(vocab_size=64, n_embd=32, n_layer=2, n_head=4, n_positions=32)
    model = transformers.GPT2LMHeadModel(config)
    model.save_pretrained(tmp_path / "base")
    path = tmp_path / "base" / "model.safetensors"
    tensors = {t.spec.name: t for t in stored_tensors(path)}
    short = {name.removeprefix("transformer."): t for name, t in tensors.items()}
    data = {name: t.read() for name, t in short.items()}
    write_tensors(path, [TensorSpec(n, t.spec.dtype, t.spec.shape) for n, t in short.items()], lambda n: [data[n]])
    wrapped = _trained(model, tmp_path / "adapter", target_modules=["c_attn", "c_fc"], fan_in_fan_out=True)
    merge_lora(tmp_path / "base", tmp_path / "adapter", tmp_path / "out")
    _equals_pefts_merge(wrapped, tmp_path / "out", atol=1e-6)


def test_a_checkpoint_of_bfloat16_becomes_float32_without_a_step_between(tmp_path: Path):
    model = _llama(torch.bfloat16, tied=True)
    model.save_pretrained(tmp_path / "base")
    wrapped = _trained(model.float(), tmp_path / "adapter", target_modules="all-linear")
    merge_lora(tmp_path / "base", tmp_path / "adapter", tmp_path / "out")
    _equals_pefts_merge(wrapped, tmp_path / "out", atol=1e-6)
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    before = json.loads((tmp_path / "base" / "config.json").read_text())
    assert (before.pop("dtype"), config.pop("dtype")) == ("bfloat16", "float32")
    assert config == before


def _scaled_adapter(folder: Path, base: Path, relative: float) -> None:
    """An adapter of which every addition has the norm `relative` times its weight's."""
    weights = _values(base)
    _trained(_llama(torch.float32), folder, target_modules="all-linear")
    path = folder / "adapter_model.safetensors"
    halves = _values(folder)
    for name in [n for n in halves if ".lora_B." in n]:
        module = name.removeprefix("base_model.model.").removesuffix(".lora_B.weight")
        delta = 2.0 * halves[name] @ halves[name.replace(".lora_B.", ".lora_A.")]  # alpha / r = 2
        halves[name] *= np.float32(relative * np.linalg.norm(weights[f"{module}.weight"]) / np.linalg.norm(delta))
    specs = [TensorSpec(name, "F32", half.shape) for name, half in halves.items()]
    write_tensors(path, specs, lambda name: [halves[name]])


def test_bfloat16_loses_a_small_update_and_float32_does_not(tmp_path: Path):
    """On the bf16 grid an addition of relative size 1e-3 is mostly below half a step: 2^-9 = 2e-3 at most."""
    _llama(torch.bfloat16).save_pretrained(tmp_path / "base")
    _scaled_adapter(tmp_path / "adapter", tmp_path / "base", 1e-3)
    half = merge_lora(tmp_path / "base", tmp_path / "adapter", tmp_path / "half", "bfloat16")
    full = merge_lora(tmp_path / "base", tmp_path / "adapter", tmp_path / "full", "float32")
    before, stored, merged = (_values(tmp_path / name) for name in ("base", "half", "full"))
    adapted = [name for name in before if name.endswith("_proj.weight")]
    assert len(adapted) == half.tensors == full.tensors == 14
    unchanged = np.mean(np.concatenate([(stored[n] == before[n]).ravel() for n in adapted]))
    lost = sum(np.square(stored[n] - merged[n], dtype=np.float64).sum() for n in adapted)
    addition = sum(np.square(merged[n] - before[n], dtype=np.float64).sum() for n in adapted)
    assert half.unchanged_share == pytest.approx(unchanged)
    assert half.relative_error == pytest.approx(np.sqrt(lost / addition), rel=1e-3)
    assert half.relative_norm == full.relative_norm == pytest.approx(1e-3, rel=1e-3)
    assert half.unchanged_share > 0.5
    assert half.relative_error > 0.5
    assert full.unchanged_share < 0.01
    assert full.relative_error == 0
    config = json.loads((tmp_path / "half" / "config.json").read_text())
    assert config["dtype"] == "bfloat16"


def test_16_bits_are_rounded_from_the_float32_sum(tmp_path: Path, base: Path):
    _trained(_llama(torch.float32), tmp_path / "adapter", target_modules="all-linear")
    merge_lora(base, tmp_path / "adapter", tmp_path / "full")
    merged = _values(tmp_path / "full")
    for dtype, stored in (("bfloat16", "BF16"), ("float16", "F16")):
        merge_lora(base, tmp_path / "adapter", tmp_path / dtype, dtype)
        for name, values in _values(tmp_path / dtype).items():
            assert np.array_equal(values, to_float32(from_float32(merged[name], stored), stored)), name


def test_a_weight_that_float16_cannot_hold_is_refused(tmp_path: Path, base: Path):
    shutil.copytree(base, tmp_path / "base")
    _trained(_llama(torch.float32), tmp_path / "adapter", target_modules=["q_proj"], lora_alpha=1e9)
    with pytest.raises(ExportError, match=r"q_proj\.weight is beyond the largest number of float16"):
        merge_lora(tmp_path / "base", tmp_path / "adapter", tmp_path / "out", "float16")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["adapter", "base"]


def test_shards_in_and_out(tmp_path: Path, base: Path):
    model = _llama(torch.float32)
    model.save_pretrained(tmp_path / "base", max_shard_size="20KB")
    assert len(list((tmp_path / "base").glob("*.safetensors"))) > 3
    wrapped = _trained(model, tmp_path / "adapter", target_modules="all-linear")
    merge_lora(tmp_path / "base", tmp_path / "adapter", tmp_path / "out", shard=30_000)
    files = sorted((tmp_path / "out").glob("*.safetensors"))
    assert len(files) > 2
    assert all(sum(t.spec.nbytes for t in stored_tensors(f)) <= 30_000 for f in files)
    index = json.loads((tmp_path / "out" / "model.safetensors.index.json").read_text())
    assert set(index["weight_map"].values()) == {f.name for f in files}
    assert index["metadata"]["total_size"] == sum(4 * v.size for v in _values(base).values())
    _equals_pefts_merge(wrapped, tmp_path / "out", atol=1e-6)


def test_the_size_of_the_blocks_changes_no_byte(tmp_path: Path, base: Path, monkeypatch: pytest.MonkeyPatch):
    _trained(_llama(torch.float32), tmp_path / "adapter", target_modules="all-linear")
    reports = [merge_lora(base, tmp_path / "adapter", tmp_path / "whole", "bfloat16")]
    monkeypatch.setattr("pudistill_cli.models.merged_checkpoint._BLOCK", 100)  # three rows of 32 at a time
    reports.append(merge_lora(base, tmp_path / "adapter", tmp_path / "blocks", "bfloat16"))
    whole, blocks = ((tmp_path / name / "model.safetensors").read_bytes() for name in ("whole", "blocks"))
    assert whole == blocks
    assert reports[0].changed == reports[1].changed
    assert reports[0].relative_norm == pytest.approx(reports[1].relative_norm, rel=1e-12)


def test_only_data_that_belongs_to_the_weights_is_copied(tmp_path: Path, base: Path):
    linked = tmp_path / "hub"  # as in the hub's cache
    linked.mkdir()
    for path in base.iterdir():
        (linked / path.name).symlink_to(path)
    _trained(_llama(torch.float32), tmp_path / "adapter", target_modules=["q_proj"])
    merge_lora(linked, tmp_path / "adapter", tmp_path / "out")
    copied = {"tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "merges.txt", "LICENSE"}
    written = {p.name for p in (tmp_path / "out").iterdir()}
    assert written == copied | {"config.json", "generation_config.json", "model.safetensors"}
    assert not any(p.is_symlink() for p in (tmp_path / "out").iterdir())
    assert (tmp_path / "out" / "tokenizer.json").read_text() == "the tokenizer.json"


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ({}, {"torch_dtype": "float16"}),
        ({"torch_dtype": "bfloat16"}, {"torch_dtype": "float16"}),
        (
            {"dtype": "bfloat16", "text_config": {"dtype": "bfloat16", "x": 1}},
            {"dtype": "float16", "text_config": {"dtype": "float16", "x": 1}},
        ),
    ],
)
def test_the_config_names_the_dtype(tmp_path: Path, base: Path, before: dict[str, Any], after: dict[str, Any]):
    shutil.copytree(base, tmp_path / "base")
    (tmp_path / "base" / "config.json").write_text(json.dumps(before))
    _trained(_llama(torch.float32), tmp_path / "adapter", target_modules=["q_proj"])
    merge_lora(tmp_path / "base", tmp_path / "adapter", tmp_path / "out", "float16")
    assert json.loads((tmp_path / "out" / "config.json").read_text()) == after


def _nothing_but(folder: Path, *names: str) -> bool:
    return sorted(p.name for p in folder.iterdir()) == sorted(names)


def test_an_adapter_of_another_model_is_refused(tmp_path: Path, base: Path):
    other = transformers.LlamaForCausalLM(transformers.LlamaConfig(**SHAPE | {"num_hidden_layers": 3}))
    _trained(other, tmp_path / "deeper", target_modules=["q_proj"])
    with pytest.raises(ExportError, match=r"changes model\.layers\.2\.self_attn\.q_proj .* is not there"):
        merge_lora(base, tmp_path / "deeper", tmp_path / "out")
    other = transformers.LlamaForCausalLM(transformers.LlamaConfig(**SHAPE | {"intermediate_size": 32}))
    _trained(other, tmp_path / "narrower", target_modules=["up_proj"])
    with pytest.raises(ExportError, match=r"shape \(32, 32\); its weight in the checkpoint is of shape \(48, 32\)"):
        merge_lora(base, tmp_path / "narrower", tmp_path / "out")
    assert _nothing_but(tmp_path, "deeper", "narrower")


def test_a_tied_head_is_refused(tmp_path: Path, base: Path):
    shutil.copytree(base, tmp_path / "base")
    config = json.loads((base / "config.json").read_text()) | {"tie_word_embeddings": True}
    (tmp_path / "base" / "config.json").write_text(json.dumps(config))
    _trained(_llama(torch.float32), tmp_path / "adapter", target_modules=["lm_head"])
    with pytest.raises(ExportError, match="shares with the embeddings"):
        merge_lora(tmp_path / "base", tmp_path / "adapter", tmp_path / "out")


def test_a_quantised_checkpoint_is_refused(tmp_path: Path, base: Path):
    shutil.copytree(base, tmp_path / "base")
    (tmp_path / "base" / "config.json").write_text('{"quantization_config": {"bits": 4}}')
    with pytest.raises(ExportError, match="is quantised"):
        merge_lora(tmp_path / "base", tmp_path, tmp_path / "out")


def test_a_folder_that_is_there_is_left_alone(tmp_path: Path, base: Path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "file").write_text("x")
    with pytest.raises(ExportError, match="is there already"):
        merge_lora(base, tmp_path, tmp_path / "out")
    assert (tmp_path / "out" / "file").read_text() == "x"


def test_a_disk_that_is_too_small_is_seen_before_anything_is_written(tmp_path: Path, base: Path):
    shutil.copytree(base, tmp_path / "base")
    _trained(_llama(torch.float32), tmp_path / "adapter", target_modules=["q_proj"])
    weights = tmp_path / "base" / "model.safetensors"
    length = int.from_bytes(weights.read_bytes()[:8], "little")
    header = json.loads(weights.read_bytes()[8 : 8 + length])
    start = max(entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__")
    entries = shutil.disk_usage(tmp_path).free // 4  # a sparse file: it takes no room, what is merged would
    header["huge"] = {"dtype": "F32", "shape": [entries], "data_offsets": [start, start + 4 * entries]}
    text = json.dumps(header).encode()
    weights.write_bytes(len(text).to_bytes(8, "little") + text)
    os.truncate(weights, 8 + len(text) + start + 4 * entries)
    with pytest.raises(ExportError, match=r"take [\d.]+ GB, and [\d.]+ GB are free") as error:
        merge_lora(tmp_path / "base", tmp_path / "adapter", tmp_path / "out")
    assert "--format adapter" in error.value.hint
    assert _nothing_but(tmp_path, "adapter", "base")


def test_a_merge_that_fails_half_way_leaves_nothing(tmp_path: Path, base: Path):
    _trained(_llama(torch.float32), tmp_path / "adapter", target_modules=["q_proj"])
    (tmp_path / "file").touch()
    with pytest.raises(ExportError, match="Cannot write"):
        merge_lora(base, tmp_path / "adapter", tmp_path / "file" / "out")
    assert _nothing_but(tmp_path, "adapter", "file")
