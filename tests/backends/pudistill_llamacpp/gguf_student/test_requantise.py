"""A trained GGUF student written back: against our converter, and against llama.cpp's own quantiser."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM

from pudistill_cli.errors import ExportError
from pudistill_cli.models.merged_checkpoint import merge_lora
from pudistill_llamacpp.gguf_student import requantise
from pudistill_llamacpp.gguf_student.read import read_student
from pudistill_llamacpp.gguf_student.requantise import export_like, requantising_problem
from tests.backends.pudistill_llamacpp.gguf_student.files import as_gguf, metadata, requantised, tensors
from tests.backends.pudistill_llamacpp.next_tokens import mean_kl, of_checkpoint, of_gguf, random_tokens
from tests.backends.random_models import MODELS


def save_adapter(student: Path, out: Path, std: float = 0.05) -> Path:
    """A LoRA on every linear layer of the blocks; a `std` of 0 changes nothing."""
    model = AutoModelForCausalLM.from_pretrained(student, dtype=torch.float32)
    torch.manual_seed(1)
    adapted = get_peft_model(model, LoraConfig(r=4, lora_alpha=8, target_modules="all-linear", task_type="CAUSAL_LM"))
    for name, parameter in adapted.named_parameters():
        if "lora_B" in name:
            parameter.data.normal_(std=std) if std else parameter.data.zero_()
    adapted.save_pretrained(out)
    return out


def changed(before: Path, after: Path) -> set[str]:
    old, new = tensors(before), tensors(after)
    assert {n: kind for n, (kind, _) in old.items()} == {n: kind for n, (kind, _) in new.items()}
    return {name for name in old if old[name] != new[name]}


@pytest.mark.parametrize("name", ["llama", "qwen3", "gemma3", "phi3-long"])
def test_a_float_file_becomes_what_the_converter_writes(models: dict[str, Path], tmp_path: Path, name: str) -> None:
    adapter = save_adapter(models[name], tmp_path / "adapter")
    source = as_gguf(models[name], tmp_path / "base.gguf")
    written = export_like(source, adapter, tmp_path / "out" / "merged.gguf")
    expected = tensors(as_gguf(models[name], tmp_path / "expected.gguf", adapter=adapter))
    for tensor, (kind, data) in tensors(written.path).items():
        assert kind == expected[tensor][0]
        np.testing.assert_allclose(
            np.frombuffer(data, np.float32), np.frombuffer(expected[tensor][1], np.float32), atol=1e-6, err_msg=tensor
        )
    assert metadata(written.path) == metadata(source)
    assert written.changed == len(changed(source, written.path)) > 0
    assert written.relative_error == 0.0
    merged = tmp_path / "merged"
    merge_lora(models[name], adapter, merged)
    tokens = random_tokens(MODELS[name].vocabulary)
    assert mean_kl(of_checkpoint(merged, tokens), of_gguf(written.path, tokens)) < 1e-6


@pytest.mark.parametrize("ftype", ["MOSTLY_Q8_0", "MOSTLY_Q4_0", "MOSTLY_Q4_K_M", "MOSTLY_Q6_K", "MOSTLY_IQ4_XS"])
def test_a_quantised_file_is_quantised_as_llamacpp_does_it(
    wide: Path, wide_gguf: Path, tmp_path: Path, ftype: str
) -> None:
    """The same sum, merged by the converter and quantised by llama.cpp to the same types, has the same bytes."""
    source = requantised(wide_gguf, tmp_path / "q.gguf", ftype)
    student = read_student(source)
    adapter = save_adapter(student.folder, tmp_path / "adapter")
    written = export_like(source, adapter, tmp_path / "out.gguf")

    folder = tmp_path / "folder"
    shutil.copytree(student.folder, folder)
    for file in wide.glob("*token*"):
        shutil.copy(file, folder)
    merged = as_gguf(folder, tmp_path / "merged.gguf", adapter=adapter)
    types = {name: kind for name, (kind, _) in tensors(source).items() if kind != "F32"}
    expected = tensors(requantised(merged, tmp_path / "expected.gguf", ftype, types))
    new = changed(source, written.path)
    assert new == {n for n in types if n.startswith("blk.")}
    for tensor in new:
        assert tensors(written.path)[tensor] == expected[tensor], tensor
    assert metadata(written.path) == metadata(source)
    assert 0 < written.relative_error < 1


def test_an_adapter_that_changes_nothing_leaves_the_file_as_it_is(wide_gguf: Path, tmp_path: Path) -> None:
    """Quantising once more would change it: 4-bit types are not a fixed point of their own rounding."""
    source = requantised(wide_gguf, tmp_path / "q.gguf", "MOSTLY_Q4_K_M")
    adapter = save_adapter(read_student(source).folder, tmp_path / "adapter", std=0.0)
    written = export_like(source, adapter, tmp_path / "out.gguf")
    assert written.path.read_bytes() == source.read_bytes()
    assert (written.changed, written.relative_error) == (0, 0.0)


def test_fewer_bits_lose_more_of_the_adapter(wide_gguf: Path, tmp_path: Path) -> None:
    lost: list[float] = []
    for ftype in ("MOSTLY_F16", "MOSTLY_Q8_0", "MOSTLY_Q4_K_M"):
        source = requantised(wide_gguf, tmp_path / f"{ftype}.gguf", ftype)
        adapter = save_adapter(read_student(source).folder, tmp_path / ftype)
        lost.append(export_like(source, adapter, tmp_path / f"{ftype}-out.gguf").relative_error)
    assert lost == sorted(lost)
    assert lost[0] < 0.05 < lost[2]


def test_the_original_checkpoint_takes_the_adapter_of_its_gguf_file(models: dict[str, Path], tmp_path: Path) -> None:
    """What `student.original` is for: trained on the quantised weights, merged into the whole ones."""
    source = as_gguf(models["llama"], tmp_path / "q8.gguf", "q8_0")
    adapter = save_adapter(read_student(source).folder, tmp_path / "adapter")
    report = merge_lora(models["llama"], adapter, tmp_path / "merged")
    assert report.tensors == 14


def test_an_adapter_of_another_model_is_refused(models: dict[str, Path], wide: Path, tmp_path: Path) -> None:
    source = as_gguf(models["llama"], tmp_path / "llama.gguf")
    adapter = save_adapter(wide, tmp_path / "adapter")
    with pytest.raises(ExportError, match="does not fit") as error:
        export_like(source, adapter, tmp_path / "out.gguf")
    assert "trained on" in error.value.hint
    assert not (tmp_path / "out.gguf").exists()


def test_a_type_that_needs_an_importance_matrix_is_known_before_training(
    wide_gguf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert requantising_problem(wide_gguf) is None
    source = requantised(wide_gguf, tmp_path / "q.gguf", "MOSTLY_Q4_K_M")
    assert requantising_problem(source) is None
    adapter = save_adapter(read_student(source).folder, tmp_path / "adapter")
    monkeypatch.setattr(requantise, "_needs_importance", lambda kind: kind == 12)  # q4_k, as iq2_xxs does
    assert "gguf-adapter" in (requantising_problem(source) or "")
    with pytest.raises(ExportError, match="importance matrix") as error:
        export_like(source, adapter, tmp_path / "out.gguf")
    assert "gguf-adapter" in error.value.hint
    assert [p.name for p in tmp_path.glob("*out*")] == []


def test_ggml_says_itself_which_types_need_one() -> None:
    from gguf import GGMLQuantizationType as Kind

    assert requantise._needs_importance(Kind.IQ2_XXS)
    assert not any(map(requantise._needs_importance, (Kind.Q8_0, Kind.Q4_K, Kind.Q6_K, Kind.IQ4_XS, Kind.BF16)))


def test_a_full_disk_leaves_nothing(models: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = as_gguf(models["llama"], tmp_path / "llama.gguf")
    adapter = save_adapter(models["llama"], tmp_path / "adapter")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=1000))
    with pytest.raises(ExportError, match="GB are free"):
        export_like(source, adapter, tmp_path / "out" / "merged.gguf")
    assert list((tmp_path / "out").iterdir()) == []


def test_a_damaged_adapter_is_refused(models: dict[str, Path], tmp_path: Path) -> None:
    source = as_gguf(models["llama"], tmp_path / "llama.gguf")
    adapter = save_adapter(models["llama"], tmp_path / "adapter")
    (adapter / "adapter_config.json").write_text(json.dumps({"peft_type": "IA3"}))
    with pytest.raises(ExportError, match="adapter"):
        export_like(source, adapter, tmp_path / "out.gguf")
