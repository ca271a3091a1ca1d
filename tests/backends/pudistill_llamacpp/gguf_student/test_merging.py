"""A trained GGUF student written back: against our converter and llama.cpp's own quantiser, with its own metadata."""

from __future__ import annotations

import json
import shutil
import struct
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from gguf import GGUFReader

from pudistill_cli.errors import DataError, ExportError, NotTheTrainedModel
from pudistill_cli.models.merged_checkpoint import merge_lora
from pudistill_llamacpp.gguf_student.merging import merged_file, write_merged
from pudistill_llamacpp.gguf_student.read import read_student
from pudistill_llamacpp.quantise import quantise
from tests.backends.pudistill_llamacpp.gguf_student.files import (
    as_gguf,
    metadata,
    requantised,
    save_adapter,
    tensors,
)
from tests.backends.pudistill_llamacpp.next_tokens import mean_kl, of_checkpoint, of_gguf, random_tokens
from tests.backends.random_models import MODELS

DESCRIBED = {"general.file_type", "general.quantization_version"}


def without_types(path: Path) -> dict[str, object]:
    return {key: value for key, value in metadata(path).items() if key not in DESCRIBED}


@pytest.mark.parametrize("name", MODELS)
def test_a_float_file_becomes_what_the_converter_writes(models: dict[str, Path], tmp_path: Path, name: str) -> None:
    adapter = save_adapter(models[name], tmp_path / "adapter")
    source = as_gguf(models[name], tmp_path / "base.gguf")
    written = write_merged(source, adapter, tmp_path / "out" / "merged.gguf", "f32")
    expected = tensors(as_gguf(models[name], tmp_path / "expected.gguf", adapter=adapter))
    ours = tensors(written.path)
    assert ours.keys() == expected.keys()
    for tensor, (kind, data) in ours.items():
        assert kind == expected[tensor][0]
        np.testing.assert_allclose(
            np.frombuffer(data, np.float32), np.frombuffer(expected[tensor][1], np.float32), atol=1e-6, err_msg=tensor
        )
    assert without_types(written.path) == without_types(source)
    assert list(metadata(written.path)) != []
    merged = tmp_path / "merged"
    merge_lora(models[name], adapter, merged)
    tokens = random_tokens(MODELS[name].vocabulary)
    assert mean_kl(of_checkpoint(merged, tokens), of_gguf(written.path, tokens)) < 1e-5  # Gemma's GELU is a table


@pytest.mark.parametrize("dtype", ["f32", "f16", "bf16", "q8_0"])
@pytest.mark.parametrize("ftype", ["MOSTLY_Q8_0", "MOSTLY_Q4_1", "MOSTLY_Q4_K_M", "MOSTLY_IQ4_XS"])
def test_a_quantised_file_is_written_as_the_same_weights_without_rounding_are(
    wide: Path, wide_gguf: Path, tmp_path: Path, ftype: str, dtype: str
) -> None:
    """The same sum, merged by the converter from the checkpoint that the learner trains, has the same bytes."""
    source = requantised(wide_gguf, tmp_path / "q.gguf", ftype)
    student = read_student(source)
    adapter = save_adapter(student.folder, tmp_path / "adapter")
    written = write_merged(source, adapter, tmp_path / "out.gguf", dtype)
    assert written.nbytes == written.path.stat().st_size <= merged_file(source, dtype).nbytes

    folder = tmp_path / "folder"
    shutil.copytree(student.folder, folder)
    for file in wide.glob("*token*"):
        shutil.copy(file, folder)
    assert tensors(written.path) == tensors(as_gguf(folder, tmp_path / "merged.gguf", dtype, adapter))
    assert without_types(written.path) == without_types(source)
    assert metadata(written.path)["general.file_type"] == {"f32": 0, "f16": 1, "bf16": 32, "q8_0": 7}[dtype]


def test_what_a_file_says_of_how_it_was_stored_is_not_kept(wide_gguf: Path, tmp_path: Path) -> None:
    """Of an importance matrix that another file was made with, too."""
    source = with_entry(wide_gguf, tmp_path / "source.gguf", "quantize.imatrix.file", "words.dat")
    assert metadata(source)["quantize.imatrix.file"] == "words.dat"
    adapter = save_adapter(read_student(source).folder, tmp_path / "adapter")
    written = write_merged(source, adapter, tmp_path / "out.gguf", "q8_0").path
    assert "quantize.imatrix.file" not in metadata(written)
    kept = {key: value for key, value in without_types(source).items() if not key.startswith("quantize.")}
    assert without_types(written) == kept


def with_entry(source: Path, out: Path, key: str, value: str) -> Path:
    """A copy of a file with one more key before its others, its tensors at an alignment of 64."""
    from gguf import GGUFReader, GGUFWriter

    reader = GGUFReader(source)
    writer = GGUFWriter(out, "llama")
    writer.data_alignment = 64
    writer.add_uint32("general.alignment", 64)
    writer.add_string(key, value)
    for name, field in reader.fields.items():
        if not name.startswith("GGUF.") and name != "general.architecture":
            writer.add_key_value(name, field.contents(), field.types[0], sub_type=field.types[-1])
    for tensor in reader.tensors:
        writer.add_tensor(tensor.name, tensor.data, raw_dtype=tensor.tensor_type)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return out


def test_a_small_change_is_lost_on_the_grid_that_the_weights_came_from(wide_gguf: Path, tmp_path: Path) -> None:
    """Every weight lies on a point of it, which is why q8_0 keeps of it what the student's own type does not."""
    source = requantised(wide_gguf, tmp_path / "q.gguf", "MOSTLY_Q4_1")
    student = read_student(source)
    adapter = save_adapter(student.folder, tmp_path / "adapter", std=0.005)
    merge_lora(student.folder, adapter, tmp_path / "trained")
    tokens = random_tokens(768)
    trained, base = of_checkpoint(tmp_path / "trained", tokens), of_checkpoint(student.folder, tokens)
    whole = write_merged(source, adapter, tmp_path / "whole.gguf", "f32").path
    again = quantise(whole, tmp_path / "again.gguf", "q4_1").path
    ours = write_merged(source, adapter, tmp_path / "ours.gguf", "q8_0").path
    changed = mean_kl(trained, base)
    assert mean_kl(trained, of_gguf(again, tokens)) > 0.5 * changed
    assert mean_kl(trained, of_gguf(ours, tokens)) < 0.1 * changed


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
        write_merged(source, adapter, tmp_path / "out.gguf", "f16")
    assert "trained on" in error.value.hint
    assert not (tmp_path / "out.gguf").exists()


def test_a_weight_beyond_float16_is_not_written_as_infinity(wide: Path, wide_gguf: Path, tmp_path: Path) -> None:
    adapter = save_adapter(wide, tmp_path / "adapter", std=1e6)
    with pytest.raises(NotTheTrainedModel, match="beyond the largest number of float16"):
        write_merged(wide_gguf, adapter, tmp_path / "out.gguf", "f16")
    assert [p.name for p in tmp_path.glob("*out*")] == []


def test_a_full_disk_leaves_nothing(models: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = as_gguf(models["llama"], tmp_path / "llama.gguf")
    adapter = save_adapter(models["llama"], tmp_path / "adapter")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=1000))
    with pytest.raises(ExportError, match="GB are free"):
        write_merged(source, adapter, tmp_path / "out" / "merged.gguf", "q8_0")
    assert list((tmp_path / "out").iterdir()) == []


def test_a_damaged_adapter_is_refused(models: dict[str, Path], tmp_path: Path) -> None:
    source = as_gguf(models["llama"], tmp_path / "llama.gguf")
    adapter = save_adapter(models["llama"], tmp_path / "adapter")
    (adapter / "adapter_config.json").write_text(json.dumps({"peft_type": "IA3"}))
    with pytest.raises(ExportError, match="adapter"):
        write_merged(source, adapter, tmp_path / "out.gguf", "f32")


def test_a_file_cut_short_is_refused(wide_gguf: Path, tmp_path: Path) -> None:
    (tmp_path / "cut.gguf").write_bytes(wide_gguf.read_bytes()[:-1000])
    with pytest.raises(DataError, match="no whole GGUF file"):
        merged_file(tmp_path / "cut.gguf", "q8_0")


def test_the_file_is_of_version_3_and_aligned(wide: Path, wide_gguf: Path, tmp_path: Path) -> None:
    written = write_merged(wide_gguf, save_adapter(wide, tmp_path / "adapter"), tmp_path / "out.gguf", "q8_0").path
    assert struct.unpack("<4sI", written.read_bytes()[:8]) == (b"GGUF", 3)
    assert all(tensor.data_offset % 32 == 0 for tensor in GGUFReader(written).tensors)
