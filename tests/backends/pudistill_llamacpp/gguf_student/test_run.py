"""A whole run whose student is a quantised GGUF file: llama.cpp samples its weights, torch trains its checkpoint."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import yaml
from safetensors.numpy import load_file

from pudistill_cli.backend_api.contract import ModelSpec
from pudistill_llamacpp.engine import LlamaCppEngine
from pudistill_llamacpp.gguf_student.read import read_model
from pudistill_llamacpp.llamacpp_backend import LlamaCppBackend
from tests.backends.pudistill_llamacpp.gguf_student.files import as_gguf
from tests.tiny import STUDENT, Ended, Tiny


@pytest.mark.parametrize(("backend", "engine"), [(None, "llamacpp"), ("torch", "torch")])
def test_a_gguf_file_is_all_a_recipe_needs(tmp_path: Path, backend: str | None, engine: str) -> None:
    student = as_gguf(STUDENT, tmp_path / "student.gguf", "q8_0")
    tiny = Tiny.make(
        tmp_path / "run",
        student={"model": str(student)},
        prefer={"rounds": 1},
        export=None,
        **({} if backend is None else {"backend": backend}),
    )
    assert tiny.main() == 0
    identity = json.loads((tiny.run / "state" / "run.json").read_text())["identity"]
    assert identity["backend.resolved"] == f"{engine}+torch"
    assert identity["student.fingerprint"] == read_model(student).fingerprint
    assert yaml.safe_load((tiny.run / "recipe.yaml").read_text())["student"]["model"] == str(student)
    assert sorted(p.name for p in (tiny.run / "export").iterdir()) == ["gguf", "gguf-adapter"]
    for export in ("gguf", "gguf-adapter"):
        card = json.loads((tiny.run / "export" / export / "pudistill.json").read_text())
        assert 0 <= card["verification"]["kl"] < 1e-3
    [folder] = (tmp_path / "cache" / "gguf-student").iterdir()
    assert sorted(p.name for p in folder.iterdir()) == ["config.json", "generation_config.json", "model.safetensors"]


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
    assert "student.gguf" in opened[1:]
    assert not [name for name in opened[1:] if name.endswith(("-f16.gguf", "-f32.gguf"))]


def test_an_engines_options_hold_where_auto_takes_that_engine(tmp_path: Path, call: Callable[..., Ended]) -> None:
    student = as_gguf(STUDENT, tmp_path / "student.gguf", "q8_0")
    options = {"engine": "auto", "options": {"quant": "f16"}}
    tiny = Tiny.make(tmp_path / "run", student={"model": str(student)}, backend=options)
    assert call(*tiny.arguments("--until", "anchors")).code == 0
    assert json.loads((tiny.run / "state" / "run.json").read_text())["resolved"]["engine.quant"] == "f16"
    ended = call(*Tiny.make(tmp_path / "other", backend=options).arguments("--until", "anchors"))
    assert (ended.code, "torch backend has no options" in ended.flat) == (2, True)


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
    assert "gguf-adapter" in ended.flat


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
