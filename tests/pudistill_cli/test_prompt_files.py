"""Files of prompts: what is read, and what is refused by line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pudistill_cli.errors import DataError
from pudistill_cli.prompt_files import read_prompts
from pudistill_cli.prompts import prompt_key
from pudistill_cli.types import Message


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "prompts.jsonl"


def user(text: str) -> tuple[Message, ...]:
    return (Message("user", text),)


def test_prompts_and_conversations(file: Path) -> None:
    conversation = [
        {"role": "system", "content": "s"},
        {"role": "user", "content": "a", "name": "ignored"},
        {"role": "assistant", "content": "b"},
        {"role": "user", "content": "c"},
    ]
    lines = [
        json.dumps({"prompt": " x\n ", "reference": "r", "id": 7}),
        "",
        json.dumps({"messages": conversation}),
    ]
    file.write_text("\n".join(lines), encoding="utf-8")
    first, second = read_prompts(file).prompts
    assert (first.messages, first.reference, first.line) == (user(" x\n "), "r", 1)
    assert first.key == prompt_key(first.messages)
    assert [(m.role, m.content) for m in second.messages] == [(m["role"], m["content"]) for m in conversation]
    assert (second.reference, second.line, second.source) == (None, 3, str(file))


def test_plain_text_has_one_prompt_a_line(tmp_path: Path) -> None:
    file = tmp_path / "prompts.txt"
    file.write_bytes('\ufeffone {"prompt": 1}\r\n\r\n  two ü\n'.encode())
    prompts = read_prompts(file, "text").prompts
    assert [(p.messages[0].content, p.line) for p in prompts] == [('one {"prompt": 1}', 1), ("  two ü", 3)]
    assert prompts[0].key == prompt_key(prompts[0].messages, "text")


def test_a_system_message_goes_where_there_is_none(file: Path) -> None:
    own = {"messages": [{"role": "system", "content": "own"}, {"role": "user", "content": "x"}]}
    file.write_text(json.dumps({"prompt": "x"}) + "\n" + json.dumps(own))
    first, second = read_prompts(file, system="given").prompts
    assert first.messages == (Message("system", "given"), Message("user", "x"))
    assert first.key == prompt_key(first.messages)
    assert second.messages[0] == Message("system", "own")


BAD = {
    "not json": "not JSON",
    "[1]": "not a JSON object",
    '{"text": "x", "id": 1}': r"neither `prompt` nor `messages` \(it has text, id\)",
    '{"prompt": "x", "messages": []}': "both",
    '{"prompt": 3}': "`prompt` must be a string",
    '{"prompt": "  "}': "not empty",
    '{"prompt": "x", "reference": 3}': "`reference` must be a string",
    '{"prompt": "\\ud83d"}': "half a character",
    '{"prompt": "a\\u0000"}': "`prompt` holds a NUL, at character 2",
    '{"prompt": "a\0"}': "it holds a NUL",
    '{"prompt": "a"}\x1a{"prompt": "b"}': "a Ctrl-Z",
    '{"messages": []}': "at least one",
    '{"messages": ["x"]}': r"messages\[0\] is not an object",
    '{"messages": [{"role": "tool", "content": "x"}]}': "role is 'tool'; it must be one of system, user",
    '{"messages": [{"role": "user", "content": [1]}]}': r"messages\[0\].content must be a string",
    '{"messages": [{"role": "assistant", "content": "x"}]}': "last message is of the assistant",
    "[" * 100_000: "not JSON",
}


@pytest.mark.parametrize("line", BAD)
def test_a_bad_line_is_named(file: Path, line: str) -> None:
    file.write_text('{"prompt": "fine"}\n\n' + line)
    with pytest.raises(DataError, match=f"line 3: .*{BAD[line]}"):
        read_prompts(file)
    kept = read_prompts(file, on_bad_line="skip")
    assert [p.messages for p in kept.prompts] == [user("fine")]
    assert "1 bad line left out: line 3" in kept.notices[0]


def test_all_bad_lines_are_in_one_error_and_many_are_counted(file: Path) -> None:
    file.write_text('{"prompt": "x"}\n' + "bad\n" * 30)
    with pytest.raises(DataError) as error:
        read_prompts(file)
    assert "30 lines" in error.value.message
    assert "line 2: " in error.value.message
    assert "line 21: " in error.value.message
    assert "and 10 more" in error.value.message
    assert "on_bad_line=skip" in error.value.hint


def test_bytes_that_are_no_utf8_are_a_bad_line(file: Path) -> None:
    file.write_bytes(b'{"prompt": "a"}\n{"prompt": "\xff"}\n')
    with pytest.raises(DataError, match=r"line 2: .*0xff"):
        read_prompts(file)
    assert len(read_prompts(file, on_bad_line="skip").prompts) == 1


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-32-be"])
@pytest.mark.parametrize("name", ["prompts.jsonl", "prompts.txt"])
def test_another_encoding_is_named(encoding: str, name: str, tmp_path: Path) -> None:
    file = tmp_path / name
    file.write_bytes('{"prompt": "one two"}\n{"prompt": "three"}\n'.encode(encoding))
    with pytest.raises(DataError, match=encoding[:6].upper()) as error:
        read_prompts(file)
    assert "iconv" in error.value.hint


def test_lines_of_old_macs_and_the_end_of_dos_files(tmp_path: Path) -> None:
    file = tmp_path / "prompts.txt"
    file.write_bytes(b"one\rtwo\rthree\r\x1a")
    assert [(p.messages, p.line) for p in read_prompts(file).prompts] == [
        (user("one"), 1), (user("two"), 2), (user("three"), 3)
    ]  # fmt: skip


def test_an_array_is_named_and_a_text_that_begins_like_one_is_read(file: Path, tmp_path: Path) -> None:
    file.write_text('[{"prompt": "a"}, {"prompt": "b"}]')
    with pytest.raises(DataError, match="is a JSON array; JSONL wants one JSON object a line") as error:
        read_prompts(file, on_bad_line="skip")
    assert "Convert it" in error.value.hint
    plain = tmp_path / "prompts.txt"
    plain.write_text("[1] What is this?")
    assert len(read_prompts(plain).prompts) == 1


def test_a_prompt_that_comes_again_is_kept_once_and_reported(file: Path) -> None:
    file.write_text('{"prompt": "a", "reference": "1"}\n{"prompt": "b"}\n{"prompt": "a", "reference": "2"}\n')
    prompt_file = read_prompts(file)
    assert [(p.messages[0].content, p.reference) for p in prompt_file.prompts] == [("a", "1"), ("b", None)]
    assert prompt_file.notices == (f"{file}: 1 duplicate prompt left out (line 3)",)


def test_missing_and_empty_files(file: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="Cannot read the prompts"):
        read_prompts(file)
    with pytest.raises(DataError, match="Cannot read the prompts"):
        read_prompts(tmp_path)
    file.write_text(" \n\n")
    with pytest.raises(DataError, match="holds no prompts"):
        read_prompts(file)
    file.write_text("bad")
    with pytest.raises(DataError, match="holds no prompts: line 1"):
        read_prompts(file, on_bad_line="skip")


def test_messages_have_no_place_in_the_text_format(file: Path) -> None:
    file.write_text('{"messages": [{"role": "user", "content": "x"}]}')
    with pytest.raises(DataError, match="text-format"):
        read_prompts(file, "text")
