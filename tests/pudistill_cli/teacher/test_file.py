"""A file of answers: its forms, its bad lines, and prompts it does not know."""

from __future__ import annotations

import json

import pytest

from pudistill_cli.errors import DataError
from pudistill_cli.teacher.answers import Question
from pudistill_cli.teacher.file import AnswerFile
from pudistill_cli.types import Message


@pytest.fixture
def written(tmp_path):
    def write(*lines: object):
        path = tmp_path / "answers.jsonl"
        path.write_text("\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines))
        return path

    return write


def question(*turns: tuple[str, str]) -> Question:
    return Question("k", tuple(Message(*turn) for turn in turns))


def test_all_forms(written):
    path = written(
        {"prompt": "bare", "answer": "1"},
        "",
        {"messages": [{"role": "user", "content": "chat"}], "answer": "2"},
        {
            "messages": [
                {"role": "system", "content": "s"},
                {"role": "user", "content": "one"},
                {"role": "assistant", "content": "two"},
                {"role": "user", "content": "three"},
                {"role": "assistant", "content": "3", "reasoning_content": "because"},
            ]
        },
        {"prompt": "cut", "answer": "4", "finish_reason": "length"},
        {"prompt": "thought", "answer": "<think>hm</think>5"},
        {"prompt": "capped", "answer": "6", "finish_reason": "MAX_TOKENS"},
        {"prompt": "broken", "answer": "7", "finish_reason": "error"},
        {"prompt": "ended", "answer": "[THINK]hm[/THINK]8<|im_end|>", "finish_reason": "end_turn"},
        {"prompt": "null", "answer": "9", "finish_reason": None},
    )
    asked = [
        question(("user", "bare")),
        question(("user", "chat")),
        question(("system", "s"), ("user", "one"), ("assistant", "two"), ("user", "three")),
        question(("user", "cut")),
        question(("user", "thought")),
        question(("user", "capped")),
        question(("user", "broken")),
        question(("user", "ended")),
        question(("user", "null")),
    ]
    teacher = AnswerFile(path)
    answers = [answer for _, answer in teacher.ask(asked)]
    assert [a.text for a in answers] == ["1", "2", "3", "4", "5", "6", "7", "8", "9"]
    assert [a.status for a in answers] == ["ok", "ok", "ok", "truncated", "ok", "truncated", "error", "ok", "ok"]
    assert [a.reasoning_stripped for a in answers] == [False, False, True, False, True, False, False, True, False]
    assert teacher.notices == []


def test_a_system_message_of_the_recipe_need_not_be_in_the_file(written):
    path = written(
        {"prompt": "q", "answer": "without"},
        {
            "messages": [{"role": "system", "content": "s"}, {"role": "user", "content": "q"}],
            "answer": "with",
        },
    )
    asked = [question(("system", s), ("user", "q")) for s in ("s", "another")]
    assert [answer.text for _, answer in AnswerFile(path).ask(asked)] == ["with", "without"]


def test_a_prompt_that_is_not_in_the_file_gets_an_error(written):
    """Those prompts are named before anything is loaded (run/preflight.py)."""
    teacher = AnswerFile(written({"prompt": "known", "answer": "yes"}))
    asked = [question(("user", "known")), question(("user", "unknown"))]
    assert [answer.status for _, answer in teacher.ask(asked)] == ["ok", "error"]
    assert teacher.answer_to(asked[0].messages) is not None
    assert teacher.answer_to(asked[1].messages) is None


BAD = {
    2: ("{not json", "not JSON"),
    3: ("[1]", "not a JSON object"),
    4: ('{"prompt": "q"}', "no `answer`"),
    5: ('{"answer": "a"}', "either `prompt` or `messages`"),
    6: ('{"prompt": "q", "answer": 3}', "`answer` must be a string"),
    7: ('{"messages": [], "answer": "a"}', "at least one message"),
    8: ('{"messages": ["q"], "answer": "a"}', "messages[0] is not an object"),
    9: ('{"messages": [{"role": "user"}], "answer": "a"}', "messages[0].content must be a string"),
    10: ("[" * 100_000, "sane depth"),
}


@pytest.mark.parametrize("number", BAD)
def test_a_bad_line_is_named_by_its_number(written, number):
    line, reason = BAD[number]
    path = written({"prompt": "good", "answer": "a"}, *[""] * (number - 2), line)
    with pytest.raises(DataError) as error:
        AnswerFile(path)
    assert f"line {number}: " in error.value.message
    assert reason in error.value.message
    assert "--set teacher.on_bad_line=skip" in error.value.hint
    teacher = AnswerFile(path, on_bad_line="skip")
    assert [answer.text for _, answer in teacher.ask([question(("user", "good"))])] == ["a"]
    assert f"1 line left out: line {number}: " in teacher.notices[0]


def test_a_line_that_is_not_utf8(tmp_path):
    path = tmp_path / "answers.jsonl"
    path.write_bytes(b'{"prompt": "q", "answer": "a"}\n{"prompt": "\xff"}\n')
    with pytest.raises(DataError, match="line 2: not UTF-8 text"):
        AnswerFile(path)


def test_a_second_answer_to_the_same_prompt_is_left_out(written):
    teacher = AnswerFile(written({"prompt": "q", "answer": "first"}, {"prompt": "q", "answer": "second"}))
    assert [answer.text for _, answer in teacher.ask([question(("user", "q"))])] == ["first"]
    assert "(line 2)" in teacher.notices[0]


def test_no_file_and_an_empty_one(tmp_path, written):
    with pytest.raises(DataError, match="Cannot read"):
        AnswerFile(tmp_path / "nowhere.jsonl")
    with pytest.raises(DataError, match="holds no answers"):
        AnswerFile(written(""))


def test_another_content_is_another_teacher(written):
    one = AnswerFile(written({"prompt": "q", "answer": "a"})).identity()
    assert one == AnswerFile(written({"prompt": "q", "answer": "a"})).identity()
    assert one != AnswerFile(written({"prompt": "q", "answer": "b"})).identity()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"prompt": "one two", "answer": "three"}\n'.encode("utf-16-le"), "is UTF-16 text"),
        (b'[{"prompt": "a", "answer": "b"}]', "is a JSON array"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\n", "is a Git LFS pointer"),
        (b'{"prompt": "a", "answer": "\xe9"}', r"line 1: not UTF-8 text \(0xe9 at byte 28\): save the file as UTF-8"),
        (b'{"prompt": "a", "answer": "b\\u0000"}', "line 1: `answer` holds a NUL"),
    ],
)
def test_text_that_is_read_wrongly_is_named(content, message, tmp_path):
    path = tmp_path / "answers.jsonl"
    path.write_bytes(content)
    with pytest.raises(DataError, match=message):
        AnswerFile(path)


def test_lines_of_old_macs_and_the_end_of_dos_files(tmp_path):
    path = tmp_path / "answers.jsonl"
    path.write_bytes(b'{"prompt": "a", "answer": "1"}\r{"prompt": "b", "answer": "2"}\r\x1a')
    asked = [question(("user", "a")), question(("user", "b"))]
    assert [answer.text for _, answer in AnswerFile(path).ask(asked)] == ["1", "2"]
