"""The reader of GGUF files against the gguf package's own, and every way in which a file can be damaged."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest
from gguf import GGUFReader, GGUFValueType

from pudistill_cli.errors import DataError
from pudistill_llamacpp.gguf_file.header import read_header
from tests.backends.pudistill_llamacpp.gguf_student.files import requantised


def same_as_the_packages_reader(path: Path) -> None:
    header, reader = read_header(path), GGUFReader(path)
    fields = {k: f for k, f in reader.fields.items() if not k.startswith("GGUF.")}
    arrays = {k for k, f in fields.items() if f.types[0] == GGUFValueType.ARRAY}
    assert header.arrays.keys() == arrays
    assert header.metadata == {k: f.contents() for k, f in fields.items() if k not in arrays}
    ours = {t.name: (t.shape[::-1], t.type, t.offset, t.nbytes) for t in header.tensors.values()}
    assert ours == {t.name: (tuple(map(int, t.shape)), t.tensor_type, t.data_offset, t.n_bytes) for t in reader.tensors}
    for tensor in reader.tensors:
        assert header.tensors[tensor.name].read(path).tobytes() == tensor.data.tobytes()


@pytest.mark.parametrize("ftype", ["MOSTLY_F16", "MOSTLY_Q8_0", "MOSTLY_Q4_K_M", "MOSTLY_Q5_0"])
def test_it_reads_what_the_gguf_package_reads(wide_gguf: Path, tmp_path: Path, ftype: str) -> None:
    same_as_the_packages_reader(requantised(wide_gguf, tmp_path / "q.gguf", ftype))


def test_it_reads_a_vocabulary_of_upstreams(upstream: Path) -> None:
    same_as_the_packages_reader(upstream / "models" / "ggml-vocab-llama-spm.gguf")


def test_a_file_cut_short_anywhere_is_refused(wide_gguf: Path, tmp_path: Path) -> None:
    whole = wide_gguf.read_bytes()
    start = min(t.offset for t in read_header(wide_gguf).tensors.values())
    cuts = [*range(0, start, max(1, start // 97)), *range(start, len(whole), len(whole) // 7), len(whole) - 1]
    for cut in cuts:
        (tmp_path / "cut.gguf").write_bytes(whole[:cut])
        with pytest.raises(DataError, match="no whole GGUF file"):
            read_header(tmp_path / "cut.gguf")


def text(value: str) -> bytes:
    return struct.pack("<Q", len(value)) + value.encode()


def file(version: int = 3, tensors: int = 0, keys: list[bytes] | None = None, after: bytes = b"") -> bytes:
    keys = keys or []
    return b"GGUF" + struct.pack("<IQQ", version, tensors, len(keys)) + b"".join(keys) + after


def uint32(key: str, value: int) -> bytes:
    return text(key) + struct.pack("<II", 4, value)


TENSOR = text("w") + struct.pack("<IQ", 1, 33)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "no whole GGUF file"),
        (b"PK\x03\x04" + bytes(60), "does not begin with GGUF"),
        (file(version=1), "version is 1"),
        (b"GGUF" + struct.pack(">I", 3) + bytes(16), "version is 50331648"),  # big-endian
        (file(tensors=1 << 40), "claims"),
        (file(keys=[text("k") + struct.pack("<I", 77)]), "unknown type 77"),
        (file(keys=[text("k") + struct.pack("<IIQ", 9, 9, 1)]), "unknown type 9"),
        (file(keys=[struct.pack("<Q", 1 << 60)]), "ends beyond it"),
        (file(keys=[text("k") + struct.pack("<IIQQ", 9, 8, 1, 1 << 60)], tensors=1), "no whole GGUF file"),
        (file(keys=[uint32("general.alignment", 0)]), "alignment is 0"),
        (
            file(tensors=1, after=TENSOR + struct.pack("<IQ", 8, 0) + bytes(100)),
            "cannot be of type 8",
        ),  # q8_0, rows of 33
        (file(tensors=1, after=TENSOR + struct.pack("<IQ", 999, 0) + bytes(100)), "999"),
        (file(tensors=1, after=TENSOR + struct.pack("<IQ", 0, 1 << 50) + bytes(200)), "cut off"),
    ],
)
def test_damage_is_named(tmp_path: Path, content: bytes, reason: str) -> None:
    path = tmp_path / "bad.gguf"
    path.write_bytes(content)
    with pytest.raises(DataError, match=reason) as error:
        read_header(path)
    assert "copy it again" in error.value.hint


def test_one_part_of_several_says_how_to_join_them(tmp_path: Path) -> None:
    path = tmp_path / "m-00001-of-00002.gguf"
    path.write_bytes(file(keys=[uint32("split.count", 2)]))
    with pytest.raises(DataError, match="one part of 2") as error:
        read_header(path)
    assert "llama-gguf-split --merge m-00001-of-00002.gguf" in error.value.hint
