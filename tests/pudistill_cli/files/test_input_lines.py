"""The lines of people's files: their numbers, their JSON, and how many of them a message names."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from pudistill_cli.errors import DataError
from pudistill_cli.files.input_lines import (
    counted,
    decoded,
    json_object,
    listed,
    numbered_lines,
    read_content,
    refuse_json_document,
    short,
)


def test_lines_have_their_numbers_in_the_file() -> None:
    assert list(numbered_lines(b"\xef\xbb\xbfa\r\n\n  \nb\xff")) == [(1, b"a"), (4, b"b\xff")]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ('{"a": }', "not JSON (Expecting value at character 7)"),
        ("[1]", "not a JSON object"),
        ("[" * 100_000, "not JSON of a sane depth"),
    ],
)
def test_a_line_that_is_no_object_says_why(line: str, reason: str) -> None:
    with pytest.raises(ValueError) as error:
        json_object(line)
    assert str(error.value) == reason


def test_the_first_are_named_and_the_rest_counted() -> None:
    assert listed(["a", "b"], ", ", 2) == "a, b"
    assert listed(["a", "b", "c"], ", ", 2) == "a, b, and 1 more"
    assert (counted(1, "line"), counted(2000, "line")) == ("1 line", "2,000 lines")


# --- files as a whole: whoever reads them ---

ENCODINGS = ["utf-16-le", "utf-16-be", "utf-32-le", "utf-32-be", "utf-16", "utf-32"]
LINES = {
    "english": "Book a table for two.\nWrite a poem\n",
    "one line": "Book a table for two.",
    "one word": "Hello",
    "russian": "Забронируй столик на двоих.\nРасскажи о Риме\n",
    "chinese": "請為兩位預訂一張桌子。\n寫一首關於秋天的詩\n",
    "windows": "Book a table.\r\nEin Tisch für zwei\r\n",
}


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("lines", LINES)
def test_text_in_two_or_four_bytes_a_character_is_named(encoding: str, lines: str, tmp_path: Path) -> None:
    """Without a byte order mark too, which the names without -le and -be write."""
    path = tmp_path / "prompts.txt"
    path.write_bytes(LINES[lines].encode(encoding))
    name, order = encoding[:6].upper(), encoding[7:].upper()
    with pytest.raises(DataError) as error:
        read_content(path, "the prompts", "Check it.")
    assert error.value.message == f"{path} is {name} text."
    assert f"iconv -f {name}{order} -t UTF-8 {path} > {tmp_path}/prompts-converted.txt" in error.value.hint
    assert iconv(path.read_bytes(), f"{name}{order}") == LINES[lines]


def iconv(content: bytes, encoding: str) -> str:
    """What the advised command would write."""
    return content.decode(encoding).removeprefix("\ufeff")


@pytest.mark.parametrize("lines", LINES)
def test_utf8_is_read_as_it_is(lines: str, tmp_path: Path) -> None:
    path = tmp_path / "prompts.txt"
    path.write_bytes(LINES[lines].encode())
    content = read_content(path, "the prompts", "Check it.")
    assert [decoded(line) for _, line in numbered_lines(content)] == LINES[lines].splitlines()


@pytest.mark.parametrize("text", ["one\nt\0wo three\n", "a b\0c d\ne f g", "\0", "one two\0\0\0\0\nthree four\n"])
def test_a_nul_that_strayed_into_utf8_is_a_bad_line(text: str, tmp_path: Path) -> None:
    path = tmp_path / "prompts.txt"
    path.write_text(text, encoding="utf-8")
    bad = [line for _, line in numbered_lines(read_content(path, "the prompts", "Check it.")) if b"\0" in line]
    with pytest.raises(ValueError, match=r"it holds a NUL, at character \d"):
        decoded(bad[0])


def test_a_line_ends_with_any_of_the_three_marks() -> None:
    assert [line for _, line in numbered_lines(b"a\rb\rc")] == [b"a", b"b", b"c"]  # old Macs
    assert list(numbered_lines(b"a\r\nb\r\r\nc\nd\re")) == [(1, b"a"), (2, b"b"), (4, b"c"), (5, b"d"), (6, b"e")]


@pytest.mark.parametrize("end", [b"\x1a", b"\r\n\x1a", b"\n\x1a\r\n", b"\x1a\x1a\x1a", b"\n\x1a\n\x1a\n"])
def test_a_ctrl_z_at_the_end_is_dos_saying_so(end: bytes) -> None:
    assert list(numbered_lines(b"a\nb" + end)) == [(1, b"a"), (2, b"b")]


def test_a_ctrl_z_in_the_midst_is_a_bad_line() -> None:
    lines = [line for _, line in numbered_lines(b"a\n\x1ab\nc")]
    with pytest.raises(ValueError, match="a Ctrl-Z, DOS's end of a file, at character 1"):
        decoded(lines[1])


def test_files_that_were_joined_bring_their_byte_order_marks() -> None:
    assert list(numbered_lines(b"\xef\xbb\xbfa\n\xef\xbb\xbfb")) == [(1, b"a"), (2, b"b")]


def test_bytes_of_another_encoding_say_where_and_what_to_do() -> None:
    with pytest.raises(ValueError) as error:
        decoded("Ein Tisch für zwei".encode("latin-1"))
    assert str(error.value) == "not UTF-8 text (0xfc at byte 12): save the file as UTF-8"


@pytest.mark.parametrize(
    ("content", "kind", "advice"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\n", "a Git LFS pointer", "git lfs pull"),
        (b"<!DOCTYPE html>\n<title>404</title>\n", "a web page", "Download it again"),
        (b"\x1f\x8b\x08\x00abc", "a gzip archive", "Give a text file"),
        (b"PK\x03\x04abc", "a zip archive", "Give a text file"),
    ],
)
def test_what_is_no_text_is_named(content: bytes, kind: str, advice: str, tmp_path: Path) -> None:
    path = tmp_path / "prompts.txt"
    path.write_bytes(content)
    with pytest.raises(DataError, match=kind) as error:
        read_content(path, "the prompts", "Check it.")
    assert advice in error.value.hint


RECORDS = [{"prompt": "a"}, {"prompt": "b ü"}]


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (json.dumps(RECORDS), "is a JSON array; JSONL"),
        (json.dumps(RECORDS, indent=2), "is a JSON array; JSONL"),
        ("\ufeff\n" + json.dumps(RECORDS, indent=2), "is a JSON array; JSONL"),
        (json.dumps(RECORDS, indent=2)[:-20], "is a JSON array, cut off or damaged; JSONL"),
        ("[\n" + ",\n".join(map(json.dumps, RECORDS)), "is a JSON array, cut off or damaged; JSONL"),
        ("[]", "is a JSON array; JSONL"),
        (json.dumps(RECORDS[0], indent=2), "is one JSON object over several lines; JSONL"),
        (json.dumps({"data": RECORDS}, indent=2), "is one JSON object over several lines; JSONL"),
    ],
)
def test_one_json_value_is_named_and_the_advised_command_makes_lines_of_it(
    content: str, what: str, tmp_path: Path
) -> None:
    path = tmp_path / "the prompts.json"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(DataError, match=what) as error:
        refuse_json_document(path, path.read_bytes())
    if "cut off" not in what and not content.startswith("\ufeff"):
        _, _, command = error.value.hint.partition(": python ")
        subprocess.run(f"{shlex.quote(sys.executable)} {command}", shell=True, check=True, cwd=tmp_path)
        lines = (tmp_path / "the prompts-converted.json").read_text().splitlines()
        whole = json.loads(content)
        assert [json.loads(line) for line in lines if line] == (whole if isinstance(whole, list) else [whole])


@pytest.mark.parametrize("content", ['{"a": 1}\n{"a": 2}', '{"a": 1}', '{"a": \n{"a": 2}', '["a"]\n["b"]', "", "x"])
def test_lines_are_told_one_by_one(content: str, tmp_path: Path) -> None:
    refuse_json_document(tmp_path / "prompts.jsonl", content.encode())


def test_a_long_text_is_shown_by_its_beginning() -> None:
    assert short("a" * 100) == "a" * 100
    assert short("a" * 101) == "a" * 100 + "…"


def test_a_line_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pudistill_cli.files.input_lines.LONGEST_LINE", 3 << 20)
    assert decoded(b"a" * (3 << 20))
    with pytest.raises(ValueError, match=r"a line of 4 MiB; at most 3"):
        decoded(b"a" * (4 << 20))


def test_json_of_absurd_numbers_and_depth_is_said_to_be_so() -> None:
    with pytest.raises(ValueError, match=r"a number of more than 4,300 digits"):
        json_object('{"a": ' + "9" * 5000 + "}")
    with pytest.raises(ValueError, match="sane depth"):
        json_object('{"a": ' + "[" * 100_000)


def test_a_file_that_is_too_large_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    with path.open("wb") as file:
        file.truncate(3 << 20)
    with pytest.raises(DataError, match=r"has 3 MiB, more than the prompts can have \(2\)"):
        read_content(path, "the prompts", "Check.", most=2 << 20)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes with a name here")
def test_a_pipe_and_a_device_are_no_files(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", Path("/dev/zero")):
        with pytest.raises(DataError, match="is a pipe, a socket or a device"):
            read_content(path, "the prompts", "Check.")
    with pytest.raises(DataError, match="Cannot read the prompts"):
        read_content(Path("a\0b"), "the prompts", "Check.")
    with pytest.raises(DataError, match="Is a directory"):
        read_content(tmp_path, "the prompts", "Check.")
