"""The learner's checkpoint of a GGUF file against the checkpoint that the file was made from, and against llama.cpp."""

from __future__ import annotations

import json
import os
import shutil
import stat
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from gguf import GGUFReader, GGUFWriter

from pudistill_cli.errors import DataError
from pudistill_llamacpp.convert.architectures.layout import Architecture, original_rows
from pudistill_llamacpp.convert.hyperparameters import float32
from pudistill_llamacpp.convert.rope import Rope
from pudistill_llamacpp.gguf_file.header import read_header
from pudistill_llamacpp.gguf_student import config as config_module
from pudistill_llamacpp.gguf_student import hf_checkpoint
from pudistill_llamacpp.gguf_student import tensors as tensors_module
from pudistill_llamacpp.gguf_student.config import architecture_of, config_of
from pudistill_llamacpp.gguf_student.read import read_model, read_student
from pudistill_llamacpp.gguf_student.tensors import weights_of
from tests.backends.pudistill_llamacpp.gguf_student.files import as_gguf, requantised, weights
from tests.backends.pudistill_llamacpp.next_tokens import mean_kl, of_checkpoint, of_gguf, random_tokens
from tests.backends.random_models import MODELS, YARN, save_bpe

ADDED = {"head_dim", "attention_bias", "mlp_bias", "architectures", "model_type"}
"""Keys that a config may leave to its defaults, and what Mistral becomes."""


def config(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "config.json").read_text())


@pytest.mark.parametrize("name", MODELS)
def test_every_architecture_comes_back(models: dict[str, Path], tmp_path: Path, name: str) -> None:
    folder = models[name]
    student = read_student(as_gguf(folder, tmp_path / f"{name}.gguf"))
    before, after = config(folder), config(student.folder)
    for key in after.keys() - ADDED - {"rope_parameters", "max_position_embeddings"}:
        assert after[key] == before[key], key
    # Mistral is written with its window as its context, which is where the two agree.
    assert after["max_position_embeddings"] == (128 if name == "mistral" else before["max_position_embeddings"])
    same_rope(after["rope_parameters"], before["rope_parameters"])
    assert after["head_dim"] == before.get("head_dim", before["hidden_size"] // before["num_attention_heads"])

    theirs, ours = weights(folder), weights(student.folder)
    assert ours.keys() == theirs.keys()
    for tensor, values in theirs.items():
        if name.startswith("gemma") and tensor.endswith("norm.weight"):  # w + 1 is what the file rounds
            np.testing.assert_allclose(ours[tensor], values, atol=2**-23)
        else:
            np.testing.assert_array_equal(ours[tensor], values, tensor)


def same_rope(after: dict[str, Any], before: dict[str, Any]) -> None:
    for key, value in before.items():
        if isinstance(value, dict):
            same_rope(after[key], value)
        elif isinstance(value, float):
            assert after.get(key, 1.0) == pytest.approx(value, rel=1e-7), key
        else:
            assert after[key] == value, key


@pytest.mark.parametrize("name", ["llama", "gemma3", "phi3-long", "smollm3"])
def test_transformers_computes_what_llamacpp_computes(models: dict[str, Path], tmp_path: Path, name: str) -> None:
    """Within 1e-4; llama.cpp's GELU, in Gemma, is a table of half-precision numbers."""
    path = as_gguf(models[name], tmp_path / f"{name}.gguf")
    tokens = random_tokens(MODELS[name].vocabulary)
    difference = np.abs(of_checkpoint(read_student(path).folder, tokens) - of_gguf(path, tokens)).max()
    assert difference < (5e-3 if name.startswith("gemma") else 1e-4)


@pytest.mark.parametrize("name", ["llama-yarn", "qwen3", "smollm3"])
def test_yarns_own_betas_are_left_alone_as_llamacpp_leaves_them(
    models: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """Keys that converters write and llama.cpp does not read for these architectures."""
    checkpoint = tmp_path / "checkpoint"
    shutil.copytree(models[name], checkpoint)
    (checkpoint / "config.json").write_text(json.dumps(config(checkpoint) | {"rope_parameters": YARN}))
    plain = as_gguf(checkpoint, tmp_path / "plain.gguf")
    real = Rope.entries
    betas = [float32(f"{{arch}}.rope.scaling.yarn_beta_{which}", beta) for which, beta in (("fast", 4), ("slow", 2))]
    monkeypatch.setattr(Rope, "entries", lambda rope: [*real(rope), *betas])
    marked = as_gguf(checkpoint, tmp_path / "marked.gguf")
    tokens = random_tokens(MODELS[name].vocabulary)
    logprobs = of_gguf(marked, tokens)
    np.testing.assert_array_equal(logprobs, of_gguf(plain, tokens))
    assert np.abs(of_checkpoint(read_student(marked).folder, tokens) - logprobs).max() < 1e-4


@pytest.mark.parametrize("ftype", ["MOSTLY_Q8_0", "MOSTLY_Q4_0", "MOSTLY_Q4_K_M", "MOSTLY_Q6_K", "MOSTLY_IQ4_XS"])
def test_quantised_weights_are_what_llamacpp_makes_of_them(wide_gguf: Path, tmp_path: Path, ftype: str) -> None:
    """llama.cpp itself writes the quantised file again in float32; ours has the same numbers, to the last bit."""
    path = requantised(wide_gguf, tmp_path / "q.gguf", ftype)
    plain = read_student(requantised(path, tmp_path / "f32.gguf", "ALL_F32"))
    student = read_student(path)
    types = {t.tensor_type.name for t in GGUFReader(path).tensors} - {"F32"}
    named = student.notices[0].partition("(")[2].partition(")")[0].split(", ")
    assert {name.split()[-1] for name in named} == types
    ours, theirs = weights(student.folder), weights(plain.folder)
    for name, values in theirs.items():
        np.testing.assert_array_equal(ours[name], values, name)


def test_a_16_bit_file_stays_16_bit_and_says_nothing(models: dict[str, Path], tmp_path: Path) -> None:
    path = as_gguf(models["llama"], tmp_path / "f16.gguf", "f16")
    student = read_student(path)
    assert student.notices == ()
    stored = weights(student.folder)
    assert stored["model.layers.0.self_attn.q_proj.weight"].dtype == np.float16
    assert stored["model.norm.weight"].dtype == np.float32
    tokens = random_tokens(MODELS["llama"].vocabulary)
    # llama.cpp rounds what it multiplies with to 16 bits too.
    assert mean_kl(of_checkpoint(student.folder, tokens), of_gguf(path, tokens)) < 1e-4


def test_stories_is_the_same_model(shared: Path, tmp_path: Path) -> None:
    folder = shared / "models/stories260K"
    path = as_gguf(folder, tmp_path / "stories.gguf")
    student = read_student(path)
    known = config(folder)
    for key in ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads"):
        assert config(student.folder)[key] == known[key]
    assert config(student.folder)["rms_norm_eps"] == known["rms_norm_eps"]
    tokens = random_tokens(512)
    assert np.abs(of_checkpoint(folder, tokens) - of_checkpoint(student.folder, tokens)).max() == 0.0
    assert np.abs(of_checkpoint(student.folder, tokens) - of_gguf(path, tokens)).max() < 1e-4


def test_large_tensors_are_read_in_pieces(
    models: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = as_gguf(models["llama"], tmp_path / "llama.gguf", "q8_0")
    whole = weights(read_student(path).folder)
    monkeypatch.setattr(tensors_module, "_BLOCK", 200)
    monkeypatch.setenv("PUDISTILL_CACHE", str(tmp_path / "other"))
    for name, values in weights(read_student(path).folder).items():
        np.testing.assert_array_equal(values, whole[name], name)


@pytest.mark.parametrize(("factor", "original"), [(8.0, 8192), (32.0, 8192), (16.0, 4096)])
def test_llama3s_settings_are_found_in_its_factors(tmp_path: Path, factor: float, original: int) -> None:
    """Llama 3.1's and 3.2's own numbers: heads of 64, a theta of 500,000."""
    from transformers import LlamaConfig, LlamaForCausalLM

    rope = {
        "rope_type": "llama3",
        "rope_theta": 500000.0,
        "factor": factor,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": original,
    }
    sizes = {"hidden_size": 64, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 1}
    model = LlamaForCausalLM(LlamaConfig(vocab_size=768, rope_parameters=rope, bos_token_id=2, eos_token_id=1, **sizes))
    model.save_pretrained(tmp_path / "llama3")
    save_bpe(tmp_path / "llama3")
    config = config_of(read_header(as_gguf(tmp_path / "llama3", tmp_path / "llama3.gguf")))
    assert config["rope_parameters"] == rope


# --- each inversion is needed: left out, the model is another one ---


def difference_to_llamacpp(path: Path, vocabulary: int) -> float:
    tokens = random_tokens(vocabulary)
    return float(np.abs(of_checkpoint(read_student(path).folder, tokens) - of_gguf(path, tokens)).max())


@pytest.mark.parametrize(
    ("name", "broken"),
    [
        ("llama", lambda patch: patch.setattr(tensors_module, "original_rows", lambda values, heads: values)),
        ("llama", lambda patch: patch.setattr(tensors_module, "original_rows", lambda v, h: original_rows(v, 2 * h))),
        ("gemma2", lambda patch: patch.setattr(tensors_module.Weights, "_offset", lambda self, name: 0.0)),
    ],
)
def test_the_comparison_sees_what_is_left_out(
    models: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, broken: Any
) -> None:
    broken(monkeypatch)
    path = as_gguf(models[name], tmp_path / "m.gguf")
    assert difference_to_llamacpp(path, MODELS[name].vocabulary) > 0.1


# --- what is refused ---


def edited(source: Path, out: Path, changes: dict[str, Any], drop: str | None = None) -> Path:
    """A copy of a file with other values of some keys (None leaves a key out), or without a tensor."""
    from gguf import GGUFValueType

    reader = GGUFReader(source)
    fields = {k: f for k, f in reader.fields.items() if not k.startswith("GGUF.")}
    writer = GGUFWriter(out, changes.pop("general.architecture", fields["general.architecture"].contents()))
    for key, field in fields.items():
        if key == "general.architecture" or changes.get(key, 0) is None:
            continue
        kind = field.types[0]
        inner = field.types[-1] if kind == GGUFValueType.ARRAY else None
        writer.add_key_value(key, changes.pop(key, field.contents()), kind, inner)
    for key, value in changes.items():
        if value is not None:
            kind = {str: GGUFValueType.STRING, int: GGUFValueType.UINT32, float: GGUFValueType.FLOAT32}[type(value)]
            writer.add_key_value(key, value, kind)
    for tensor in reader.tensors:
        if tensor.name != drop:
            writer.add_tensor(tensor.name, tensor.data, raw_dtype=tensor.tensor_type)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return out


@pytest.mark.parametrize(
    ("changes", "drop", "reason"),
    [
        ({"general.architecture": "falcon"}, None, "architecture 'falcon', which cannot be trained"),
        ({"llama.block_count": None}, None, "does not say its block_count"),
        ({"llama.block_count": 3}, None, "tensor blk.2.attn_norm.weight is missing"),
        ({"llama.block_count": 1}, None, "blk.1.* has no place"),
        ({}, "blk.0.ffn_up.weight", "blk.0.ffn_up.weight is missing"),
        ({}, "token_embd.weight", "does not say its token_embd.weight"),
        ({"llama.expert_count": 8}, None, "sets llama.expert_count to 8"),
        ({"llama.rope.scaling.type": "longrope"}, None, "scaling 'longrope'"),
        ({"llama.rope.dimension_count": 8}, None, "dimension_count is 8, where 24 was expected"),
        ({"tokenizer.ggml.model": "no_vocab"}, None, "no tokenizer"),
    ],
)
def test_a_file_that_cannot_be_the_student_says_why(
    models: dict[str, Path], tmp_path: Path, changes: dict[str, Any], drop: str | None, reason: str
) -> None:
    path = edited(as_gguf(models["llama"], tmp_path / "llama.gguf"), tmp_path / "edited.gguf", dict(changes), drop)
    with pytest.raises(DataError, match=reason) as error:
        read_student(path)
    assert "checkpoint" in error.value.hint


def test_a_model_that_is_only_run_need_not_be_understood(models: dict[str, Path], tmp_path: Path) -> None:
    """A teacher may have what a student may not; it must say how long its texts can be."""
    source = as_gguf(models["llama"], tmp_path / "llama.gguf")
    teacher = read_model(edited(source, tmp_path / "odd.gguf", {"llama.some_future_setting": 1}))
    assert (teacher.context, teacher.stop_tokens[0]) == (256, 2)
    assert teacher.parameters == sum(values.size for values in weights(models["llama"]).values())
    with pytest.raises(DataError, match="context_length"):
        read_model(edited(source, tmp_path / "none.gguf", {"llama.context_length": None}))


def test_the_refusal_of_an_architecture_names_those_that_are_read(models: dict[str, Path], tmp_path: Path) -> None:
    source = as_gguf(models["llama"], tmp_path / "llama.gguf")
    path = edited(source, tmp_path / "edited.gguf", {"general.architecture": "mamba"})
    with pytest.raises(DataError) as error:
        architecture_of(read_header(path))
    for name in ("llama", "qwen2", "qwen3", "gemma2", "gemma3", "phi3", "smollm3"):
        assert name in error.value.hint


def test_factors_that_are_no_known_scalings_are_refused(models: dict[str, Path], tmp_path: Path) -> None:
    path = as_gguf(models["llama3"], tmp_path / "llama3.gguf")
    tensor = read_header(path).tensors["rope_freqs.weight"]
    with path.open("rb+") as file:
        file.seek(tensor.offset)
        file.write(np.linspace(1, 9, tensor.shape[0], dtype="<f4").tobytes())
    with pytest.raises(DataError, match="RoPE has frequency factors"):
        read_student(path)


def test_more_tokens_than_embeddings(models: dict[str, Path], tmp_path: Path) -> None:
    source = as_gguf(models["qwen2"], tmp_path / "qwen2.gguf")
    fields = GGUFReader(source).fields
    more = {
        "tokenizer.ggml.tokens": [*fields["tokenizer.ggml.tokens"].contents(), "<tool>"],
        "tokenizer.ggml.token_type": [*fields["tokenizer.ggml.token_type"].contents(), 4],
    }
    path = edited(source, tmp_path / "edited.gguf", more)
    for read in (read_student, read_model):
        with pytest.raises(DataError, match="has 769 tokens, and embeddings of 768 rows"):
            read(path)


def test_a_missing_pre_tokenizer_is_llamacpps_to_refuse(models: dict[str, Path], tmp_path: Path) -> None:
    source = as_gguf(models["qwen2"], tmp_path / "qwen2.gguf")
    path = edited(source, tmp_path / "edited.gguf", {"tokenizer.ggml.pre": "of-tomorrow"})
    with pytest.raises(DataError, match="unknown pre-tokenizer type"):
        read_student(path)


# --- the cache ---


def test_a_checkpoint_is_made_once(models: dict[str, Path], tmp_path: Path) -> None:
    path = as_gguf(models["llama"], tmp_path / "llama.gguf")
    first = read_student(path).folder
    (first / "mark").touch()
    copy = tmp_path / "copy.gguf"
    shutil.copy(path, copy)
    assert (read_student(copy).folder / "mark").exists()
    assert not list(first.parent.glob(".*"))


def test_no_room_is_said_before_anything_is_written(
    models: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = as_gguf(models["llama"], tmp_path / "llama.gguf")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=1000))
    with pytest.raises(DataError, match="GB are free") as error:
        read_student(path)
    assert "PUDISTILL_CACHE" in error.value.hint
    assert list((tmp_path / "cache" / "gguf-student").iterdir()) == []


def test_a_failure_halfway_leaves_nothing(
    models: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = as_gguf(models["llama"], tmp_path / "llama.gguf")
    monkeypatch.setattr(tensors_module.Weights, "blocks", lambda self, name: (_ for _ in ()).throw(OSError(28, "full")))
    with pytest.raises(DataError, match="Cannot write"):
        read_student(path)
    assert list((tmp_path / "cache" / "gguf-student").iterdir()) == []


@pytest.mark.parametrize("other", ["comes to its end", "fails"])
def test_two_processes_at_once_leave_each_other_alone(
    models: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, other: str
) -> None:
    """The second one begins and ends while the first one writes."""
    path = as_gguf(models["llama"], tmp_path / "llama.gguf")
    real = hf_checkpoint.write_tensors
    theirs: list[Path] = []

    def full(*_: Any) -> None:
        raise OSError(28, "full")

    def interrupted(*arguments: Any) -> None:
        real(*arguments)
        with monkeypatch.context() as patch:
            patch.setattr(hf_checkpoint, "write_tensors", real if other == "comes to its end" else full)
            try:
                theirs.append(read_student(path).folder)
                (theirs[0] / "mark").touch()
            except DataError:
                assert other == "fails"

    monkeypatch.setattr(hf_checkpoint, "write_tensors", interrupted)
    folder = read_student(path).folder
    assert (folder / "mark").exists() is (other == "comes to its end")
    assert set(weights(folder)) == set(weights(models["llama"]))
    assert {p.name for p in folder.iterdir()} - {"mark"} == {
        "config.json", "generation_config.json", "model.safetensors", "sums.json"
    }  # fmt: skip
    assert list(folder.parent.iterdir()) == [folder]


def test_what_a_killed_process_left_is_in_nobodys_way(models: dict[str, Path], tmp_path: Path) -> None:
    """It goes when it is old; what is new may be a living process's."""
    path = as_gguf(models["llama"], tmp_path / "llama.gguf")
    cache = tmp_path / "cache" / "gguf-student"
    name = read_model(path).fingerprint
    old, earlier, new = cache / f".{name}.tmp", cache / f".{name}.abc.tmp", cache / f".{name}.def.tmp"
    for folder, hours in ((old, 25), (earlier, 25), (new, 23)):
        (folder / name / "model.safetensors").mkdir(parents=True)  # where a file has to go
        written = time.time() - hours * 3600
        for made in (folder / name / "model.safetensors", folder / name, folder):
            os.utime(made, (written, written))
    folder = read_student(path).folder
    assert set(cache.iterdir()) == {folder, new}
    assert set(weights(folder)) == set(weights(models["llama"]))


@pytest.mark.skipif(os.name == "nt", reason="needs modes")
def test_the_checkpoint_is_for_its_owner_only(models: dict[str, Path], tmp_path: Path) -> None:
    path = as_gguf(models["llama"], tmp_path / "llama.gguf")
    assert stat.S_IMODE(read_student(path).folder.stat().st_mode) == 0o700


def test_every_tensor_of_the_table_is_in_it(models: dict[str, Path], tmp_path: Path) -> None:
    """Guards the table itself: an architecture without a module would refuse files that have it."""
    header = read_header(as_gguf(models["smollm3"], tmp_path / "m.gguf"))
    architecture: Architecture = architecture_of(header)
    read = weights_of(header, architecture, config_module.config_of(header))
    assert {s.tensor.name for s in read.sources.values()} == set(header.tensors)
