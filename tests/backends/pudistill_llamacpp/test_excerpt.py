"""Excerpts of students' shapes: llama.cpp runs them, for every architecture, from a checkpoint and from a GGUF file."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from pudistill_llamacpp import excerpt
from pudistill_llamacpp.excerpt import shape_of, write_excerpt
from pudistill_llamacpp.gguf_file.header import read_header
from pudistill_llamacpp.native.context import Context, ContextSettings
from pudistill_llamacpp.native.model import Model
from tests.backends.pudistill_llamacpp.gguf_student.files import as_gguf
from tests.backends.random_models import MODELS


@pytest.mark.parametrize("form", ["folder", "file"])
@pytest.mark.parametrize("name", MODELS)
def test_llama_cpp_runs_it(
    models: dict[str, Path], name: str, form: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(excerpt, "ENTRIES", 1)  # one block
    student = models[name] if form == "folder" else as_gguf(models[name], tmp_path / "student.gguf")
    shape = shape_of(student)
    for quant in ("bf16", "f16", "q8_0"):
        write_excerpt(shape, quant, tmp_path / f"{quant}.gguf")
        with closing(Model.open(tmp_path / f"{quant}.gguf")) as model:
            settings = ContextSettings(n_ctx=256, n_batch=8, n_ubatch=8)
            with closing(Context(model, settings)) as context:
                assert np.isfinite(context.decode(np.arange(8), np.arange(8), 0)).all()


def test_it_has_the_students_blocks_and_its_share_of_the_vocabulary(models: dict[str, Path], tmp_path: Path) -> None:
    """Random models have two blocks, and few weights: all of them are needed."""
    shape = shape_of(models["llama"])
    write_excerpt(shape, "bf16", tmp_path / "all.gguf")
    whole = read_header(as_gguf(models["llama"], tmp_path / "student.gguf", "bf16"))
    written = read_header(tmp_path / "all.gguf")
    assert {n: (t.shape, t.type_name) for n, t in written.tensors.items()} == {
        n: (t.shape, t.type_name) for n, t in whole.tensors.items()
    }
    assert sum(t.nbytes for t in written.tensors.values() if len(t.shape) > 1) == 2 * sum(
        int(np.prod(t.shape)) for t in written.tensors.values() if len(t.shape) > 1
    )


def test_of_a_deep_student_it_has_as_many_blocks_as_a_trial_needs(
    models: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shape = shape_of(models["llama"])
    one = sum(int(np.prod(s)) for n, s in shape.tensors.items() if n.startswith("blk.0."))
    for entries, blocks in ((1, 1), (one, 1), (one + 1, 2), (9 * one, 2)):
        monkeypatch.setattr(excerpt, "ENTRIES", entries)
        assert shape.blocks_tried == blocks
    monkeypatch.setattr(excerpt, "ENTRIES", one)
    write_excerpt(shape, "f16", tmp_path / "one.gguf")
    written = read_header(tmp_path / "one.gguf")
    assert {n.split(".")[1] for n in written.tensors if n.startswith("blk.")} == {"0"}
    assert written.tensors["token_embd.weight"].shape[0] == shape.tensors["token_embd.weight"][0] // 2
