"""Gold data of every form, and what is said about records that are none."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pudistill_cli.errors import DataError
from pudistill_cli.judging.gold import read_gold
from pudistill_cli.judging.records import gold_of
from pudistill_cli.types import Message

PREFERENCE = {"prompt": "add 2 and 2", "anchor": "4", "chosen": "four", "rejected": "five"}
GRADED = {"prompt": "hi", "candidates": [{"text": "hello", "grade": 4}, {"text": "bye", "grade": 1.5}]}
ALPACA = {"instruction": "hi", "output_1": "hello", "output_2": "bye", "preference": 1.0, "annotator": "x"}


def written(folder: Path, *records: Any) -> Path:
    path = folder / "gold.jsonl"
    path.write_text("".join(f"{r if isinstance(r, str) else json.dumps(r)}\n" for r in records), encoding="utf-8")
    return path


def test_a_preference_is_two_answers_of_which_one_is_better(tmp_path: Path) -> None:
    (group,) = read_gold(written(tmp_path, PREFERENCE)).groups
    assert group.messages == (Message("user", "add 2 and 2"),)
    assert (group.anchor, group.texts, group.grades) == ("4", ("four", "five"), (1.0, 0.0))


def test_a_prompt_may_be_a_conversation_and_an_answer_its_last_message() -> None:
    turns = [{"role": "system", "content": "be brief"}, {"role": "user", "content": "hi"}]
    chosen = [*turns, {"role": "assistant", "content": "hello"}]
    for key in ("prompt", "messages"):
        group = gold_of({key: turns, "chosen": chosen, "rejected": "bye"}, "line 1")
        assert group.messages == (Message("system", "be brief"), Message("user", "hi"))
        assert group.texts == ("hello", "bye")
        assert group.anchor is None


def test_graded_candidates_keep_their_grades() -> None:
    group = gold_of(GRADED, "line 1")
    assert (group.texts, group.grades) == (("hello", "bye"), (4.0, 1.5))


@pytest.mark.parametrize(
    ("preference", "grades"),
    [(1, (1, 0)), (2.0, (0, 1)), (1.5, (0.5, 0.5)), (0, (0.5, 0.5)), (1.9, (pytest.approx(0.1), pytest.approx(0.9)))],
)
def test_alpaca_eval_s_preference(preference: float, grades: tuple[float, float]) -> None:
    """1 is the first output, 2 the second, 1.5 and its older form 0 a tie; weighted annotators say 1 + p."""
    assert gold_of({**ALPACA, "preference": preference}, "item 1").grades == grades


def test_alpaca_eval_s_input_goes_behind_the_instruction_and_its_reference_is_the_anchor() -> None:
    group = gold_of({**ALPACA, "input": "there", "reference": "greetings"}, "item 1")
    assert group.messages == (Message("user", "hi\n\nthere"),)
    assert group.anchor == "greetings"
    assert gold_of({**ALPACA, "input": "", "output": "greetings"}, "item 1").anchor == "greetings"
    assert gold_of(ALPACA, "item 1").anchor is None


def test_an_array_is_read_as_lines_are_and_annotations_that_failed_are_counted(tmp_path: Path) -> None:
    path = tmp_path / "annotations.json"
    path.write_text(json.dumps([ALPACA, {**ALPACA, "preference": None}, PREFERENCE], indent=2))
    found = read_gold(path)
    assert [group.place for group in found.groups] == ["item 1", "item 3"]
    assert found.notices == (f"{path}: 1 record without a preference left out.",)


def test_the_same_prompt_has_the_same_key() -> None:
    assert gold_of(GRADED, "line 1").key == gold_of(ALPACA, "line 2").key != gold_of(PREFERENCE, "line 3").key


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        ("{", "not JSON"),
        (3, "not a JSON object"),
        ({"prompt": "hi"}, "no `candidates`, no `chosen` and `rejected`, no `output_1` and `output_2` (it has prompt)"),
        ({"chosen": "a", "rejected": "b"}, "no `prompt`, `messages` or `instruction`"),
        ({**PREFERENCE, "rejected": " "}, "`rejected` must be a string that is not empty"),
        ({**PREFERENCE, "prompt": ""}, "`prompt` must be a string that is not empty"),
        ({**PREFERENCE, "prompt": []}, "`prompt` must end with a message of the user"),
        ({**PREFERENCE, "prompt": [{"role": "bot", "content": "x"}]}, "prompt[0].role must be one of system, user"),
        ({**PREFERENCE, "anchor": 4}, "`anchor` must be a string"),
        ({**PREFERENCE, "chosen": "\ud83d"}, "`chosen` holds half a character"),
        ({**GRADED, "candidates": GRADED["candidates"][:1]}, "`candidates` must be a list of at least two answers"),
        ({**GRADED, "candidates": ["a", "b"]}, "candidates[0] is not an object"),
        ({**GRADED, "candidates": [{"text": "a", "grade": 1}, {"text": "b"}]}, "candidates[1].grade must be a number"),
        ({**GRADED, "candidates": [{"text": "a", "grade": True}] * 2}, "candidates[0].grade must be a number"),
        ({**ALPACA, "preference": 3}, "`preference` is 3; it must be 1 to 2, or 0 for a tie"),
        ({**ALPACA, "preference": "1"}, "`preference` must be a number"),
        ({**ALPACA, "preference": 10**400}, "`preference` must be a number"),
        ({**GRADED, "candidates": [{"text": "a", "grade": 10**400}] * 2}, "candidates[0].grade must be a number"),
        ({k: v for k, v in ALPACA.items() if k != "preference"}, "no `preference`"),
    ],
)
def test_a_bad_record_is_named_by_its_number_and_the_reason(record: Any, reason: str, tmp_path: Path) -> None:
    with pytest.raises(DataError) as raised:
        read_gold(written(tmp_path, PREFERENCE, "", record))
    assert f"line 3: {reason}" in raised.value.message
    assert "1 record cannot be read" in raised.value.message
    assert '"chosen"' in raised.value.hint


def test_every_bad_record_is_counted_and_the_first_twenty_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="23 records cannot be read") as raised:
        read_gold(written(tmp_path, *[{"prompt": "hi"}] * 23))
    assert raised.value.message.count("line ") == 20
    assert "and 3 more" in raised.value.message


@pytest.mark.parametrize("content", [b"", b"[]", b"\n \n", b"[1", "[{}]".encode("utf-16")])
def test_a_file_of_nothing_is_refused(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "gold.json"
    path.write_bytes(content)
    with pytest.raises(DataError):
        read_gold(path)


def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="No such file"):
        read_gold(tmp_path / "gold.jsonl")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (json.dumps(GRADED).encode("utf-16-le"), "is UTF-16 text"),
        (json.dumps([GRADED]).encode("utf-32-be"), "is UTF-32 text"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\n", "is a Git LFS pointer"),
        (b'{"prompt": "a"}\n{"prompt": "\xe9"}', "line 2: not UTF-8 text"),
        (b'[{"prompt": "a"},\n\n {"prompt": "\xe9"}]', "line 3: not UTF-8 text"),
        (b'{"prompt": ' + b"9" * 5000 + b"}", "line 1: not JSON: a number of more than 4,300 digits"),
        (b'[{"prompt": "a"},\n\n {"prompt" "b"}]', "the array: not JSON .* at line 3, character"),
    ],
)
def test_text_that_is_read_wrongly_is_named(content: bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / "gold.jsonl"
    path.write_bytes(content)
    with pytest.raises(DataError, match=message):
        read_gold(path)


def test_lines_of_old_macs_and_the_end_of_dos_files(tmp_path: Path) -> None:
    path = tmp_path / "gold.jsonl"
    path.write_bytes(b"\r".join(json.dumps(record).encode() for record in (GRADED, PREFERENCE)) + b"\r\x1a")
    assert [group.place for group in read_gold(path).groups] == ["line 1", "line 2"]
