"""A chat template put into a finished file: all else is read as before."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from gguf import GGUFReader

from pudistill_llamacpp.convert.writer import write_gguf
from pudistill_llamacpp.gguf_student.own_template import replace_chat_template
from pudistill_llamacpp.native.model import Model
from tests.tiny import STUDENT

KEY = "tokenizer.chat_template"


@pytest.mark.parametrize("template", ["x", "{{ 'é🙂' }}\n" * 1000])
def test_only_the_template_changes(template: str, tmp_path: Path) -> None:
    file = write_gguf(STUDENT, tmp_path / "student.gguf", dtype="q8_0").path
    before = GGUFReader(write_gguf(STUDENT, tmp_path / "before.gguf", dtype="q8_0").path)
    replace_chat_template(file, template)
    after = GGUFReader(file)
    assert after.fields[KEY].contents() == template
    assert list(after.fields) == list(before.fields)
    for name in before.fields.keys() - {KEY, "general.name"}:
        assert after.fields[name].contents() == before.fields[name].contents()
    for a, b in zip(after.tensors, before.tensors, strict=True):
        assert (a.name, a.tensor_type, list(a.shape)) == (b.name, b.tensor_type, list(b.shape))
        np.testing.assert_array_equal(a.data, b.data)
        assert a.data_offset % after.alignment == 0
    model = Model.open(file, vocab_only=True)
    held = model.chat_template
    model.close()
    assert held == template
