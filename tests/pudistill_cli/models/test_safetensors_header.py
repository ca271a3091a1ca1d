"""Headers that do not describe their file, field by field."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from pudistill_cli.errors import DataError
from pudistill_cli.models.safetensors_header import safetensors_header

A: dict[str, Any] = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}


def file(path: Path, header: Any, body: bytes = bytes(8), length: int | None = None) -> Path:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes((len(text) if length is None else length).to_bytes(8, "little") + text + body)
    return path


@pytest.mark.parametrize(
    ("entry", "reason"),
    [
        (1, "no object"),
        (None, "no object"),
        ({**A, "dtype": None}, "unknown type 'None'"),
        ({**A, "dtype": "f32"}, "unknown type 'f32'"),
        ({**A, "dtype": "X" * 5000}, "unknown type 'XXX"),
        ({"shape": [2], "data_offsets": [0, 8]}, "lacks dtype"),
        ({"dtype": "F32", "data_offsets": [0, 8]}, "lacks shape"),
        ({"dtype": "F32", "shape": [2]}, "lacks data_offsets"),
        ({**A, "shape": 2}, "no list of sizes"),
        ({**A, "shape": [2.0]}, "no list of sizes"),
        ({**A, "shape": [True, 2]}, "no list of sizes"),
        ({**A, "shape": [-2, -1]}, "no list of sizes"),
        ({**A, "shape": [1] * 5000 + [2]}, "no list of sizes"),
        ({**A, "shape": [1 << 32, 1 << 32]}, "do not fit its shape"),
        ({**A, "shape": [1 << 64, 0], "data_offsets": [0, 0]}, "do not fit its shape"),
        ({**A, "shape": [3]}, "do not fit its shape"),
        ({**A, "data_offsets": [0]}, "no two places"),
        ({**A, "data_offsets": [8, 0]}, "no two places"),
        ({**A, "data_offsets": [0, 8, 16]}, "no two places"),
        ({**A, "data_offsets": ["0", "8"]}, "no two places"),
        ({**A, "data_offsets": [(1 << 64) - 8, 1 << 64]}, "leave a gap"),
    ],
)
def test_an_entry_that_is_not_sound_is_named(tmp_path: Path, entry: Any, reason: str) -> None:
    with pytest.raises(DataError, match=reason) as caught:
        safetensors_header(file(tmp_path / "model.safetensors", {"w": entry}))
    assert "model.safetensors" in caught.value.message
    assert caught.value.hint == "Copy it again."
    assert len(caught.value.message) < 400


@pytest.mark.parametrize("name", ["", "a\0b", "a\nb", "n" * 2000])
def test_a_name_that_cannot_be_shown_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(DataError, match="a tensor that is called"):
        safetensors_header(file(tmp_path / "x", {name: A}))


def test_bytes_that_overlap_or_leave_a_gap_are_refused(tmp_path: Path) -> None:
    later = {**A, "data_offsets": [8, 16]}
    whole = {"a": A, "b": later}
    assert safetensors_header(file(tmp_path / "x", whole, bytes(16))) == whole
    with pytest.raises(DataError, match="tensor b overlap"):
        safetensors_header(file(tmp_path / "x", {"a": A, "b": {**A, "data_offsets": [4, 12]}}, bytes(12)))
    with pytest.raises(DataError, match="tensor b leave a gap"):
        safetensors_header(file(tmp_path / "x", {"a": A, "b": {**A, "data_offsets": [12, 20]}}, bytes(20)))
    for body in (bytes(15), bytes(17)):
        with pytest.raises(DataError, match="cut off"):
            safetensors_header(file(tmp_path / "x", whole, body))


@pytest.mark.parametrize(
    ("header", "length", "reason"),
    [
        (b"{}", 1 << 63, "longer than the file"),
        (b"[]", None, "no JSON object"),
        (b'{"w": 1, "w": 2}', None, "'w' twice"),
        (b'{"__metadata__": {"a": 1}}', None, "no object of texts"),
        (b'{"w": ' + b"[" * 3000, None, "nested too deeply"),
        (b'{"\xff": 1}', None, "not UTF-8"),
        (b'{"\\ud800": 1}', None, "not valid Unicode"),
    ],
)
def test_a_header_that_is_none_is_refused(tmp_path: Path, header: bytes, length: int | None, reason: str) -> None:
    with pytest.raises(DataError, match=reason):
        safetensors_header(file(tmp_path / "x", header, b"", length))


def test_a_header_of_100_megabytes_is_not_read(tmp_path: Path) -> None:
    path = file(tmp_path / "x", b"{", b"", 100 << 20)
    os.truncate(path, 200 << 20)
    with pytest.raises(DataError, match="claims 104,857,600 bytes"):
        safetensors_header(path)
