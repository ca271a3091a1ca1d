"""Files told by their first bytes, and what a message advises."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save

from pudistill_cli.files.file_kinds import GGUF, LFS_POINTER, SAFETENSORS, WEB_PAGE, advice_for, kind_of, kind_of_file

POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 12345\n"


@pytest.mark.parametrize(
    ("start", "kind"),
    [
        (b"GGUF\x03\0\0\0", GGUF),
        (POINTER, LFS_POINTER),
        (b"<!DOCTYPE html>\n<html>", WEB_PAGE),
        (b"\n <HTML lang='en'>", WEB_PAGE),
        (b"\xef\xbb\xbf<html>", WEB_PAGE),
        (save({"x": np.zeros(2, np.float32)}), SAFETENSORS),
        (b"\x1f\x8b\x08\x00", "a gzip archive"),
        (b"PAR1\x15\x04", "a Parquet file"),
        (b'{"prompt": "<html>"}', None),
        (b"What is a GGUF file?", None),
        (b"", None),
    ],
)
def test_a_file_is_told_by_its_first_bytes(start: bytes, kind: str | None, tmp_path: Path) -> None:
    assert kind_of(start) == kind
    (tmp_path / "file").write_bytes(start)
    assert kind_of_file(tmp_path / "file") == kind


def test_what_is_not_there_is_of_no_kind_and_some_kinds_have_advice_of_their_own(tmp_path: Path) -> None:
    assert kind_of_file(tmp_path / "none") is None
    assert "git lfs pull" in advice_for(LFS_POINTER, "Copy it.")
    assert advice_for(None, "Copy it.") == advice_for(GGUF, "Copy it.") == "Copy it."
