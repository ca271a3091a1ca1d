"""Files that hang, fill the memory or overflow the stack of a reader that trusts them."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from pudistill_cli.errors import DataError
from pudistill_cli.models.reading import MOST_DEPTH, check_regular, parse_json, read_bytes, read_object, read_text


def made(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


@pytest.mark.skipif(sys.platform == "win32", reason="pipes and devices of POSIX")
def test_only_a_regular_file_is_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    (tmp_path / "zero").symlink_to("/dev/zero")
    (tmp_path / "loop").symlink_to("loop")
    said = {
        "pipe": "a pipe",
        "folder": "a folder",
        "zero": "a device",
        "loop": "symbolic links",
        "none": "No such file",
    }
    for name, what in said.items():
        for read in (read_bytes, check_regular, read_text, read_object):
            with pytest.raises(DataError, match=what) as caught:
                read(tmp_path / name)
            assert name in caught.value.message
            assert caught.value.hint


def test_a_file_beyond_the_limit_is_not_read(tmp_path: Path) -> None:
    file = tmp_path / "sparse.json"
    file.touch()
    os.truncate(file, 1 << 40)
    with pytest.raises(DataError, match="has 1,099,511,627,776 bytes"):
        read_object(file)
    assert read_bytes(made(tmp_path / "x", b"1234"), most=4) == b"1234"
    with pytest.raises(DataError, match="4 bytes, and such a file has no more than 3"):
        read_bytes(tmp_path / "x", most=3)


def test_a_name_that_no_file_can_have() -> None:
    with pytest.raises(DataError, match=r"Cannot read a\\0b"):
        read_bytes(Path("a\0b"))


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"[" * 100_000, "nested too deeply"),
        (b'{"a": ' + b"[" * MOST_DEPTH + b"]" * MOST_DEPTH + b"}", "nested more than 64 deep"),
        (b'{"a": 1, "b": {"c": 1, "c": 2}}', "says 'c' twice"),
        (b'{"a": ' + b"9" * 5000 + b"}", "a number of more than 4,300 digits"),
        (b'{"a": "\\ud800"}', "not valid Unicode"),
        (b'{"\\udfff": 1}', "not valid Unicode"),
        (b'{"a": "\xff"}', "not UTF-8 text at byte 7"),
        ('{"a": 1}'.encode("utf-16"), "not UTF-8"),
        (b"\xef\xbb\xbf{}", "byte-order mark"),
        (b"[]", "is no JSON object"),
        (b"", "Expecting value"),
        (b"{" * (1 << 22) + b"{", "too many values"),
        (b"<!doctype html>", "it is a web page"),
    ],
)
def test_an_object_is_read_within_limits(tmp_path: Path, content: bytes, reason: str) -> None:
    with pytest.raises(DataError, match=reason) as caught:
        read_object(made(tmp_path / "config.json", content))
    assert "config.json" in caught.value.message
    assert caught.value.hint


def test_what_is_within_them_is_read_as_it_is(tmp_path: Path) -> None:
    nested = b"[" * (MOST_DEPTH - 1) + b"]" * (MOST_DEPTH - 1)
    assert set(read_object(made(tmp_path / "x", b'{"a": ' + nested + b', "b": "\xc3\xa9\\ud83d\\ude42"}'))) == {
        "a",
        "b",
    }
    assert parse_json(b'{"a": 1, "a": 2}', strictly=False) == {"a": 2}
    assert read_text(made(tmp_path / "t", "é\r\n".encode())) == "é\r\n"
