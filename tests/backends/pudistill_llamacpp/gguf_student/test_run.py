"""A whole run whose student is a quantised GGUF file: llama.cpp samples its weights, torch trains its checkpoint."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from safetensors.numpy import load_file

from pudistill_cli.backend_api.contract import ModelSpec
from pudistill_cli.models.student import resolve_student
from pudistill_cli.types import Message
from pudistill_llamacpp.engine import LlamaCppEngine
from pudistill_llamacpp.gguf_student.read import read_model, read_student
from pudistill_llamacpp.llamacpp_backend import LlamaCppBackend
from tests.backends.pudistill_llamacpp.gguf_student.files import as_gguf, requantised
from tests.backends.random_models import save_bpe
from tests.tiny import STUDENT, Ended, Tiny


@pytest.mark.parametrize(("backend", "engine"), [(None, "llamacpp"), ("torch", "torch")])
def test_a_gguf_file_is_all_a_recipe_needs(tmp_path: Path, backend: str | None, engine: str) -> None:
    student = as_gguf(STUDENT, tmp_path / "student.gguf", "q8_0")
    tiny = Tiny.make(
        tmp_path / "run",
        student={"model": str(student)},
        sft={"lr": 1e-2, "epochs": 8},
        prefer={"rounds": 1},
        export=None,
        **({} if backend is None else {"backend": backend}),
    )
    assert tiny.main() == 0
    identity = json.loads((tiny.run / "state" / "run.json").read_text())["identity"]
    assert identity["backend.resolved"] == f"{engine}+torch"
    assert identity["student.fingerprint"] == read_model(student).fingerprint
    assert yaml.safe_load((tiny.run / "recipe.yaml").read_text())["student"]["model"] == str(student)
    exports = sorted(p.name for p in (tiny.run / "export").iterdir())
    assert exports == ["gguf-adapter", "gguf-q8_0"]
    for export in exports:
        verification = json.loads((tiny.run / "export" / export / "pudistill.json").read_text())["verification"]
        assert 0 <= verification["kl"] < 1e-3
        assert verification["ratio"] < 0.1
    [folder] = (tmp_path / "cache" / "gguf-student").iterdir()
    made = ["config.json", "generation_config.json", "model.safetensors", "sums.json"]
    assert sorted(p.name for p in folder.iterdir()) == made


@pytest.mark.slow
def test_what_was_measured_is_recorded_and_used_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: Callable[..., Ended]
) -> None:
    """A run that is stopped and goes on where another type is faster ends with the bytes of one that is not stopped."""
    student = as_gguf(STUDENT, tmp_path / "student.gguf", "f16")
    found: list[str] = []
    describe = LlamaCppBackend.describe

    def measured(backend: LlamaCppBackend, spec: ModelSpec, weights_gib: float | None) -> dict[str, str]:
        assert weights_gib is not None
        found.append("q8_0" if not found else "bf16")
        return {**describe(backend, spec), "quant": found[0]}

    def made(name: str) -> Tiny:
        recipe = {"student": {"model": str(student)}, "prefer": {"rounds": 1}, "export": {"formats": ["adapter"]}}
        return Tiny.make(tmp_path / name, **recipe)

    monkeypatch.setattr(LlamaCppBackend, "measured", measured)
    stopped = made("stopped")
    for stage in ("anchors", "sft", "prefer", "export"):
        ended = call(*stopped.arguments("--until", stage))
        assert ended.code == 0, ended.err
        assert ("engine.quant q8_0" in ended.flat) == (stage == "anchors")
        assert json.loads((stopped.run / "state" / "run.json").read_text())["resolved"]["engine.quant"] == "q8_0"
    assert len(found) == 1
    assert [p.name.split("-")[1] for p in (tmp_path / "cache" / "gguf").iterdir()] == ["q8_0.gguf"]
    assert "# engine.quant: q8_0\n" in (stopped.run / "recipe.yaml").read_text()
    found.clear()
    whole = made("whole")
    assert whole.main() == 0
    compared = ("adapters/**/*.safetensors", "results.json")
    assert whole.bytes_of(*compared) == stopped.bytes_of(*compared)


def test_exports_are_read_as_they_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: Callable[..., Ended]
) -> None:
    """The student is sampled from a copy; verified are the merged file itself, and the adapter on the student's."""
    student = as_gguf(STUDENT, tmp_path / "student.gguf", "q8_0")
    opened: list[str] = []

    class Watched(LlamaCppEngine):
        def __init__(self, spec: ModelSpec) -> None:
            super().__init__(spec)
            opened.append(self.file.name)

    monkeypatch.setattr("pudistill_llamacpp.engine.LlamaCppEngine", Watched)
    monkeypatch.setattr("pudistill_llamacpp.exporting.LlamaCppEngine", Watched)
    tiny = Tiny.make(tmp_path / "run", student={"model": str(student)}, prefer={"rounds": 0}, export=None)
    assert call(*tiny.arguments()).code == 0
    assert opened[0].endswith("-f32.gguf")
    assert {name for name in opened[1:] if not name.startswith("tiny-")} == {"student.gguf"}


def test_an_engines_options_hold_where_auto_takes_that_engine(tmp_path: Path, call: Callable[..., Ended]) -> None:
    student = as_gguf(STUDENT, tmp_path / "student.gguf", "q8_0")
    options = {"engine": "auto", "options": {"quant": "f16"}}
    tiny = Tiny.make(tmp_path / "run", student={"model": str(student)}, backend=options)
    assert call(*tiny.arguments("--until", "anchors")).code == 0
    assert json.loads((tiny.run / "state" / "run.json").read_text())["resolved"]["engine.quant"] == "f16"
    ended = call(*Tiny.make(tmp_path / "other", backend=options).arguments("--until", "anchors"))
    assert (ended.code, "torch backend has no options" in ended.flat) == (2, True)


def export_of(tiny: Tiny, name: str) -> dict[str, Any]:
    return json.loads((tiny.run / "export" / name / "pudistill.json").read_text())


def test_a_quantised_student_leaves_with_what_it_learned(
    models: dict[str, Path], tmp_path: Path, call: Callable[..., Ended]
) -> None:
    """Merged in q8_0, and as an adapter that llama.cpp's rounding of activations on a quantised base does not stop."""
    whole = as_gguf(models["llama3"], tmp_path / "whole.gguf")
    student = requantised(whole, tmp_path / "student.gguf", "MOSTLY_Q4_1")
    tiny = Tiny.make(
        tmp_path / "run", student={"model": str(student)}, sft={"lr": 1e-2, "epochs": 8}, prefer={"rounds": 0}
    )
    ended = call(*tiny.arguments())
    assert ended.code == 0, ended.err
    assert sorted(p.name for p in (tiny.run / "export").iterdir()) == ["gguf-adapter", "gguf-q8_0"]
    merged, adapter = export_of(tiny, "gguf-q8_0"), export_of(tiny, "gguf-adapter")["verification"]
    assert merged["types"]["attn_q"] == {"Q8_0": 2}
    assert merged["verification"]["ratio"] < 0.1
    assert 1e-4 < adapter["kl"] <= 1e-4 + 2 * adapter["kl_of_base"]
    assert f"nothing lost: its runtime's arithmetic makes {adapter['kl_of_base']:.1e} before training" in ended.flat
    paths = {path.name for path in (tiny.run / "export").iterdir() if str(path) in ended.out}
    assert paths == {"gguf-adapter", "gguf-q8_0"}
    again = call(*tiny.arguments())
    assert again.code == 0
    assert "loaded back" not in again.err


def test_where_the_default_type_loses_too_much_a_larger_one_is_written(
    wide_gguf: Path, tmp_path: Path, call: Callable[..., Ended]
) -> None:
    """Hardly anything was learned here; the types that lose it are written where they are named, which is said."""
    student = requantised(wide_gguf, tmp_path / "student.gguf", "MOSTLY_Q4_1")
    tiny = Tiny.make(tmp_path / "run", student={"model": str(student)}, sft={"lr": 3e-4}, prefer={"rounds": 0})
    ended = call(*tiny.arguments())
    assert ended.code == 0, ended.err
    exports = {path.name for path in (tiny.run / "export").iterdir()}
    assert "gguf-q8_0" not in exports
    (larger,) = exports - {"gguf-adapter"}
    assert larger in ("gguf-f16", "gguf-f32")
    assert export_of(tiny, larger)["verification"]["ratio"] < 0.1
    assert "The gguf-q8_0 export would lose" in ended.flat
    assert "f16 instead." in ended.flat
    assert str(tiny.run / "export" / larger) in ended.out
    again = call(*tiny.arguments())
    assert again.code == 0
    assert "loaded back" not in again.err

    quants = [option for quant in ("q8_0", "q4_1") for option in ("--quant", quant)]
    named = call("export", "tiny", "--runs", str(tiny.runs), "--format", "gguf", *quants)
    assert named.code == 0, named.err
    for name in ("gguf-q8_0", "gguf-q4_1"):
        lost = export_of(tiny, name)["verification"]["ratio"]
        assert lost > 0.1
        assert f"This {name} export loses {min(lost, 1):.0%} of what training changed" in named.flat
    assert "Use a larger --quant, or --format gguf-adapter." in named.flat
    assert named.flat.count("The student came in Q4_1, and this file puts its weights back onto that grid") == 1


def test_merged_into_the_original(tmp_path: Path, call: Callable[..., Ended]) -> None:
    """What was quantised away is not in the export: it is the original's weights, with the adapter added."""
    student = as_gguf(STUDENT, tmp_path / "student.gguf", "q8_0")
    tiny = Tiny.make(
        tmp_path / "run",
        student={"model": str(student), "original": str(STUDENT)},
        prefer={"rounds": 0},
        export={"formats": ["hf", "gguf"], "quants": ["f32"]},
    )
    ended = call(*tiny.arguments())
    assert ended.code == 0, ended.err
    merged = load_file(tiny.run / "export" / "hf" / "model.safetensors")
    original = load_file(STUDENT / "model.safetensors")
    name = "model.embed_tokens.weight"
    np.testing.assert_array_equal(merged[name], original[name].astype(np.float32))
    assert (tiny.run / "export" / "gguf-f32" / "Modelfile").is_file()


def dequantised(student: Path, out: Path) -> Path:
    """Its weights without rounding, in Hugging Face form, with the tokenizer files that it was made from."""
    shutil.copytree(read_student(student).folder, out)
    save_bpe(out)
    return out


def test_a_dequantised_copy_is_an_original(models: dict[str, Path], tmp_path: Path, call: Callable[..., Ended]) -> None:
    """By default every form is written then: as it came, and as its original."""
    whole = as_gguf(models["llama3"], tmp_path / "whole.gguf")
    student = requantised(whole, tmp_path / "student.gguf", "MOSTLY_Q4_1")
    original = dequantised(student, tmp_path / "original")
    tiny = Tiny.make(
        tmp_path / "run",
        student={"model": str(student), "original": str(original)},
        sft={"lr": 1e-2, "epochs": 8},
        prefer={"rounds": 0},
    )
    ended = call(*tiny.arguments())
    assert ended.code == 0, ended.err
    assert sorted(p.name for p in (tiny.run / "export").iterdir()) == ["adapter", "gguf-adapter", "gguf-q8_0", "hf"]
    assert export_of(tiny, "hf")["verification"]["kl"] < 1e-6
    assert export_of(tiny, "gguf-q8_0")["verification"]["ratio"] < 0.1
    assert f"FROM {student}" in (tiny.run / "export" / "gguf-adapter" / "Modelfile").read_text()
    messages = [Message("user", "book lunch on monday")]
    exported = resolve_student(str(tiny.run / "export" / "hf")).tokenizer
    assert exported.encode_prompt(messages) == resolve_student(str(student)).tokenizer.encode_prompt(messages)


def another_template(original: Path) -> None:
    template = original / "chat_template.jinja"
    template.write_text(template.read_text() + "{{ '\\n' }}")


def another_tokenizer(original: Path) -> None:
    path = original / "tokenizer.json"
    tokenizer = json.loads(path.read_text())
    tokenizer["model"]["merges"] = tokenizer["model"]["merges"][:-300]
    path.write_text(json.dumps(tokenizer))


@pytest.mark.parametrize(
    ("change", "words"),
    [(another_template, "has another chat template"), (another_tokenizer, "makes other token ids of")],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_an_original_that_reads_text_otherwise_is_refused_before_training(
    change: Callable[[Path], None], words: str, tmp_path: Path, call: Callable[..., Ended]
) -> None:
    student = as_gguf(STUDENT, tmp_path / "student.gguf", "q8_0")
    original = dequantised(student, tmp_path / "original")
    change(original)
    tiny = Tiny.make(tmp_path / "run", student={"model": str(student), "original": str(original)})
    ended = call(*tiny.arguments())
    assert ended.code == 3, ended.err
    assert words in ended.flat
    assert not tiny.runs.exists()


def test_an_original_of_another_student_is_refused(shared: Path, tmp_path: Path, call: Callable[..., Ended]) -> None:
    student = as_gguf(STUDENT, tmp_path / "student.gguf", "q8_0")
    other = shared / "models" / "stories260K"
    tiny = Tiny.make(tmp_path / "run", student={"model": str(student), "original": str(other)})
    ended = call(*tiny.arguments())
    assert ended.code == 3
    assert "was made from" in ended.flat


def test_merged_weights_in_hugging_face_form_need_the_original(tmp_path: Path, call: Callable[..., Ended]) -> None:
    student = as_gguf(STUDENT, tmp_path / "student.gguf", "q8_0")
    tiny = Tiny.make(tmp_path / "run", student={"model": str(student)}, export={"formats": ["hf"]})
    ended = call(*tiny.arguments())
    assert ended.code == 8
    assert "student.original" in ended.flat
    assert not tiny.runs.exists()


def test_a_gguf_file_is_one_whatever_it_is_called(tmp_path: Path, call: Callable[..., Ended]) -> None:
    """By its first four bytes; its name is relative to the recipe."""
    tiny = Tiny.make(tmp_path / "run", student={"model": "weights.bin"}, export=None)
    as_gguf(STUDENT, tiny.folder / "student.gguf", "q8_0").rename(tiny.folder / "weights.bin")
    ended = call(*tiny.arguments("--dry-run"))
    assert ended.code == 0, ended.err
    assert "gguf-q8_0, gguf-adapter" in ended.out


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ((STUDENT / "model.safetensors").read_bytes(), ["is a safetensors file, and no GGUF file", "the folder that"]),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\n", ["is a Git LFS pointer", "git lfs pull"]),
        (b"<!doctype html><title>401</title>", ["is a web page", "Download it again"]),
        (b"GGUF", ["is no whole GGUF file"]),
        (b"", ["is no whole GGUF file"]),
    ],
)
def test_what_is_called_gguf_and_is_none_is_named(
    content: bytes, words: list[str], tmp_path: Path, call: Callable[..., Ended]
) -> None:
    tiny = Tiny.make(tmp_path / "run", student={"model": "student.gguf"}, export=None)
    (tiny.folder / "student.gguf").write_bytes(content)
    ended = call(*tiny.arguments("--dry-run"))
    assert ended.code == 3
    for word in words:
        assert word in ended.flat
