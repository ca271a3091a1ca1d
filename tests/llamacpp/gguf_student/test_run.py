"""A whole run whose student is a quantised GGUF file: llama.cpp samples from it, torch trains its checkpoint."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from files import as_gguf
from tiny import STUDENT, Tiny

from pudistill_cli import registry
from pudistill_cli import student as student_module
from pudistill_llamacpp.gguf_student.read import read_model, read_student
from pudistill_llamacpp.llamacpp_backend import LlamaCppBackend


class Reading(LlamaCppBackend):
    """The backend with its reader of files."""

    read_model = staticmethod(read_model)
    read_student = staticmethod(read_student)


@pytest.mark.parametrize(("backend", "engine"), [(None, "llamacpp"), ("torch", "torch")])
def test_a_gguf_file_is_all_a_recipe_needs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, backend: str | None, engine: str
) -> None:
    monkeypatch.setattr(student_module, "backends", lambda: {**registry.backends(), "llamacpp": Reading()})
    student = as_gguf(STUDENT, tmp_path / "student.gguf", "q8_0")
    tiny = Tiny.make(
        tmp_path / "run",
        student={"model": str(student)},
        prefer={"rounds": 1},
        export={"formats": ["adapter"]},
        rank={"gates": backend is None},  # they let torch decode text, for which it wants a tokenizer.json
        **({} if backend is None else {"backend": backend}),
    )
    assert tiny.main() == 0
    identity = json.loads((tiny.run / "state" / "run.json").read_text())["identity"]
    assert identity["backend.resolved"] == f"{engine}+torch"
    assert identity["student.fingerprint"] == read_model(student).fingerprint
    assert yaml.safe_load((tiny.run / "recipe.yaml").read_text())["student"]["model"] == str(student)
    assert (tiny.run / "export" / "adapter" / "adapter_model.safetensors").is_file()
    [folder] = (tmp_path / "cache" / "gguf-student").iterdir()
    assert sorted(p.name for p in folder.iterdir()) == ["config.json", "generation_config.json", "model.safetensors"]
