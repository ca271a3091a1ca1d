"""Absurd replies, and `Retry-After` in both its forms; the rest of reply.py is tested over HTTP in test_endpoint.py."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from pudistill_cli.teacher.answers import Answer
from pudistill_cli.teacher.reply import Failed, read_reply, retry_after

NOW = datetime(2026, 3, 1, 12, 0, 0, tzinfo=UTC)


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("3", 3.0),
        (" 0.5 ", 0.5),
        ("Sun, 01 Mar 2026 12:01:30 GMT", 90.0),
        ("Sun, 01 Mar 2026 12:01:30 -0000", 90.0),
        ("Sun, 01 Mar 2026 14:00:10 +0200", 10.0),
        ("Sun, 01 Mar 2026 11:00:00 GMT", 0.0),
        ("-3", None),
        ("nan", None),
        ("soon", None),
        ("", None),
        ("3 apples", None),
        (None, None),
        ("9" * 400, float("inf")),
        ("Mon, 01 Jan 0001 00:00:00 +2359", 0.0),
        ("Mon, 01 Jan 2026 00:00:00 +99999999", None),
        ("²", None),
    ],
)
def test_retry_after(value, seconds):
    assert retry_after(value, NOW) == seconds


def read(body: str, status: int = 200):
    return read_reply(status, {}, body, "m", "http://there/v1/chat/completions", 100)


def completion(content: str = '"four"', usage: str = "{}", finish: str = '"stop"', beside: str = "0") -> str:
    return (
        f'{{"choices": [{{"message": {{"content": {content}}}, "finish_reason": {finish}}}], "usage": {usage}, '
        f'"beside": {beside}}}'
    )


@pytest.mark.parametrize(
    "number",
    [
        *("-5", "0", "1e30", "-1e999", "NaN", "Infinity", "7.5", '"7"', "null", "true", "[7]", '{"a": 1}', "10000001"),
        *("9223372036854775808", "1" * 30, "1" * 5000, "-" + "1" * 5000),
    ],
    ids=lambda number: number[:12],
)
def test_numbers_that_count_nothing_are_left_out_and_the_answer_is_kept(number):
    details = f'{{"reasoning_tokens": {number}}}'
    usage = f'{{"prompt_tokens": {number}, "completion_tokens": {number}, "completion_tokens_details": {details}}}'
    assert read(completion(usage=usage)) == Answer("four", "ok", "stop", False, 0, 0)


def test_one_number_is_left_out_and_the_other_kept():
    usage = '{"prompt_tokens": 1e30, "completion_tokens": 5}'
    assert read(completion(usage=usage)) == Answer("four", "ok", "stop", False, 0, 5)


@pytest.mark.parametrize("usage", ["null", "7", '"none"', "[]", "[{}]", "NaN"])
def test_a_usage_that_is_none(usage):
    assert read(completion(usage=usage)) == Answer("four", "ok", "stop", False, 0, 0)


@pytest.mark.parametrize("beside", ["1" * 5000, "NaN", '"\\ud800"', "[" * 50 + "]" * 50])
def test_nothing_beside_the_answer_matters(beside):
    assert read(completion(beside=beside)) == Answer("four", "ok", "stop", False, 0, 0)


def test_a_byte_order_mark():
    assert read("\ufeff" + completion()) == Answer("four", "ok", "stop", False, 0, 0)


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ('"four\\u0000"', "four"),
        ('"\\u0000fo\\u0000ur"', "four"),
        ('"four \\ud83d"', "four ?"),
        ('"\\udc00 four"', "? four"),
        ('"four \\ud83d\\ude00"', "four \U0001f600"),
        ('[{"type": "text", "text": "fo\\u0000"}, {"type": "text", "text": "ur\\ud83d"}]', "four?"),
    ],
)
def test_text_that_no_file_could_hold(content, text):
    answer = read(completion(content))
    assert isinstance(answer, Answer)
    assert (answer.text, answer.status) == (text, "ok")


@pytest.mark.parametrize(
    "finish", ['"\\ud800"', '"\\u0000"', "1e999", "NaN", "1" * 5000, '"' + "x" * 100_000 + '"', '[["\\udfff"]]']
)
def test_a_finish_reason_can_always_be_kept(finish):
    answer = read(completion(finish=finish))
    assert isinstance(answer, Answer)
    assert answer.text == "four"
    kept = answer.finish_reason + answer.detail
    assert "\0" not in kept.encode().decode()
    assert len(kept) < 1000


@pytest.mark.parametrize("code", ["1" * 5000, '"' + "4" * 5000 + '"', "1e3", "true", '"\\ud800"', '"٤٠٤"', "-404"])
def test_the_code_of_an_error_can_be_anything(code):
    outcome = read(f'{{"error": {{"message": "no \\ud800\\u0000", "code": {code}}}}}', status=400)
    assert outcome == Failed("HTTP 400: no ?")
