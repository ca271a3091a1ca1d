"""The endpoint against a real HTTP server: every way to fail, every limit, and nothing lost."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import threading
import time
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest

from pudistill_cli.config.teacher import EndpointTeacher
from pudistill_cli.errors import TeacherError
from pudistill_cli.teacher.answers import Answer
from pudistill_cli.teacher.endpoint import MAX_CONSECUTIVE_FAILURES, Endpoint
from pudistill_cli.terminal.stop_signals import SIGNALS, Stopped, working
from tests.pudistill_cli.teacher.server import DROP, Response, fails, says


def first_then(*responses):
    """The n-th request gets the n-th response; further ones the last."""
    return lambda request: responses[min(request.number, len(responses)) - 1]


STRIPPED = ("ok", "stop", True)
THOUGHT_LONG = {"completion_tokens": 3000, "completion_tokens_details": {"reasoning_tokens": 2900}}


def beside(response: Response, choice: dict | None = None, reply: dict | None = None) -> Response:
    """A chat completion with further fields in its choice, or beside its choices."""
    body = json.loads(response.body) | (reply or {})
    body["choices"][0] |= choice or {}
    return Response(body=json.dumps(body).encode())


def until_it_stops(arriving) -> tuple[list[Answer], BaseException]:
    """The answers before the error that ends the asking, and the error."""
    answers: list[Answer] = []
    with pytest.raises((TeacherError, KeyboardInterrupt)) as error:
        answers.extend(answer for _, answer in arriving)
    return answers, error.value


def texts(answers) -> list[str]:
    return [answer.text for _, answer in answers]


def test_the_request_is_what_the_recipe_says(serve, endpoint, ask):
    server = serve(lambda request: says("four"))
    teacher = endpoint(
        server,
        system="Be brief.",
        temperature=0.5,
        top_p=0.9,
        max_tokens=33,
        max_tokens_field="max_completion_tokens",
        extra_body={"reasoning_effort": "low"},
    )
    [(question, answer)] = teacher.ask(ask("2 + 2?"))
    assert question.messages[-1].content == "2 + 2?"
    assert answer == Answer("four", "ok", "stop", False, 7, 5)
    [request] = server.requests
    assert request.path == "/v1/chat/completions"
    assert "authorization" not in request.headers
    assert request.body == {
        "model": "m",
        "messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "2 + 2?"}],
        "temperature": 0.5,
        "top_p": 0.9,
        "max_completion_tokens": 33,
        "reasoning_effort": "low",
    }


@pytest.mark.parametrize(
    "trouble",
    [
        pytest.param(fails(429, headers={"Retry-After": "0"}), id="429 with Retry-After"),
        pytest.param(fails(429), id="429"),
        pytest.param(fails(500), id="500"),
        pytest.param(Response(503, b"<html>busy</html>"), id="503 with a page"),
        pytest.param(Response(200, b'{"choices": [{"mess'), id="malformed JSON"),
        pytest.param(Response(200, b"[" * 100_000), id="JSON that is too deep"),
        pytest.param(Response(200, b'{"error": {"message": "upstream"}}'), id="an error called 200"),
        pytest.param(Response(200, b'{"choices": [{"message": {"content": 3}}]}'), id="no text"),
        pytest.param(DROP, id="dropped connection"),
        pytest.param(Response(200, b"x", {"Content-Encoding": "gzip"}), id="broken compression"),
        pytest.param(says("Half", "error"), id="broken off"),
        pytest.param(says("Half", "insufficient_system_resource"), id="too few machines"),
        pytest.param(says("", "load"), id="a model that was only loaded"),
        pytest.param(beside(says("Half"), choice={"error": {"code": 502, "message": "gone"}}), id="error in a choice"),
        pytest.param(beside(says("Half", None), reply={"error": {"message": "gone"}}), id="error beside a choice"),
        pytest.param(Response(200, b'{"code": 503, "message": "busy"}'), id="an error's code called 200"),
    ],
)
def test_trouble_is_tried_again(serve, endpoint, ask, trouble):
    server = serve(first_then(trouble, trouble, says("at last")))
    assert texts(endpoint(server).ask(ask("q"))) == ["at last"]
    assert len(server.requests) == 3


@pytest.mark.parametrize(
    ("trouble", "detail"),
    [
        (fails(500, "on fire"), "HTTP 500: on fire (after 3 tries)"),
        (Response(200, b"not JSON"), "HTTP 200, but no answer in it: 'not JSON' (after 3 tries)"),
        (DROP, "the connection broke: Server disconnected without sending a response. (after 3 tries)"),
        (says("Half", "error"), "HTTP 200, but it broke off (error) (after 3 tries)"),
        (
            beside(says("Half", "error"), choice={"error": {"code": 502, "message": "Provider disconnected"}}),
            "HTTP 200, but it broke off (error): Provider disconnected (after 3 tries)",
        ),
    ],
)
def test_lasting_trouble_costs_one_prompt(serve, endpoint, ask, trouble, detail):
    server = serve(lambda request: trouble if request.prompt == "bad" else says("good"))
    answers = {q.messages[0].content: a for q, a in endpoint(server).ask(ask("a", "bad", "b"))}
    assert {prompt: answer.status for prompt, answer in answers.items()} == {
        "a": "ok",
        "bad": "error",
        "b": "ok",
    }
    assert answers["bad"].detail == detail


def test_a_hanging_request_is_given_up_and_tried_again(serve, endpoint, ask):
    def hang_once(request):
        if request.number == 1:
            server.released.wait()
        return says("awake")

    server = serve(hang_once)
    assert texts(endpoint(server, timeout=0.5, retries=9).ask(ask("q"))) == ["awake"]
    assert len(server.requests) >= 2


def test_a_retry_after_date_in_the_past_does_not_wait(serve, endpoint, ask):
    past = format_datetime(datetime.now(UTC) - timedelta(hours=1), usegmt=True)
    server = serve(first_then(fails(429, headers={"Retry-After": past}), says("now")))
    teacher = Endpoint(EndpointTeacher(model="m", base_url=server.url), backoff=3600.0)
    assert texts(teacher.ask(ask("q"))) == ["now"]


def test_a_retry_after_of_hours_stops_instead_of_sleeping(serve, endpoint, ask):
    later = format_datetime(datetime.now(UTC) + timedelta(hours=2), usegmt=True)
    server = serve(first_then(says("one"), fails(429, "daily limit", {"Retry-After": later})))
    arriving = endpoint(server).ask(ask("a", "b", "c"))
    assert next(arriving)[1].text == "one"
    with pytest.raises(TeacherError, match=r"asks to wait 7,\d+ s .*daily limit.* 1 of 3 prompts") as error:
        list(arriving)
    assert "same command again" in error.value.hint


@pytest.mark.parametrize(
    ("response", "message", "hint"),
    [
        (fails(401, "Incorrect API key"), "does not accept the key", "teacher.api_key_env"),
        (fails(403, "not in your country"), "refuses access .*not in your country", "teacher.api_key_env"),
        (fails(404, "the model `m` does not exist"), "knows no model 'm'", "teacher.model"),
        (fails(400, "no such thing", code="model_not_found"), "knows no model 'm'", "teacher.model"),
        (Response(200, b'{"code": 404, "object": "error", "message": "no m"}'), "no model 'm'", "teacher.model"),
        (Response(200, b'{"error": {"code": "402", "message": "pay"}}'), "no credit left", "Top it up"),
        (fails(429, "pay", code="insufficient_quota"), "no credit left", "Top it up"),
        (fails(400, "no", code="unsupported_value", param="top_p"), "parameter", "change top_p"),
        (
            fails(400, "use 'max_completion_tokens' instead", code="unsupported_parameter", param="max_tokens"),
            "parameter",
            "--set teacher.max_tokens_field=max_completion_tokens",
        ),
        (Response(307, b"", {"Location": "http://there/"}), "redirects to http://there/", "base_url"),
    ],
)
def test_what_no_retry_can_change_stops_at_once(serve, endpoint, ask, response, message, hint):
    server = serve(lambda request: response)
    with pytest.raises(TeacherError, match=message) as error:
        list(endpoint(server).ask(ask("a", "b", "c")))
    assert hint in error.value.hint
    assert len(server.requests) == 1


def test_a_prompt_the_endpoint_cannot_take_is_left_out(serve, endpoint, ask):
    server = serve(lambda r: fails(400, "too long") if r.prompt == "long" else says("fine"))
    answers = [answer for _, answer in endpoint(server).ask(ask("long", "short"))]
    assert [a.status for a in answers] == ["error", "ok"]
    assert answers[0].detail == "HTTP 400: too long"
    assert server.prompts == ["long", "short"]


def test_an_endpoint_that_fails_prompt_after_prompt_stops(serve, endpoint, ask):
    server = serve(lambda request: fails(500, "on fire"))
    answers, error = until_it_stops(endpoint(server, retries=0).ask(ask(*map(str, range(30)))))
    assert re.search(rf"{MAX_CONSECUTIVE_FAILURES} prompts in a row .*on fire.* 0 of 30 prompts", str(error))
    assert len(server.requests) == MAX_CONSECUTIVE_FAILURES
    assert [answer.status for answer in answers] == ["error"] * (MAX_CONSECUTIVE_FAILURES - 1)


def test_an_endpoint_that_is_not_there(ask):
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
    settings = EndpointTeacher(model="m", base_url=f"http://127.0.0.1:{port}/v1", retries=2)
    with pytest.raises(TeacherError, match=r"cannot be reached after 3 tries.* 0 of 2 prompts") as error:
        list(Endpoint(settings, backoff=0.001).ask(ask("a", "b")))
    assert "teacher.base_url" in error.value.hint


@pytest.mark.parametrize(
    ("response", "expected"),
    [
        (says("I'm sorry, but I can't assist with that."), ("refused", "stop", False)),
        (says(None, refusal="I will not."), ("refused", "stop", False)),
        (says("Half", "content_filter"), ("refused", "content_filter", False)),
        (fails(400, "filtered", code="content_filter"), ("refused", "content_filter", False)),
        (says("  \n"), ("empty", "stop", False)),
        (says(None, "tool_calls"), ("empty", "tool_calls", False)),
        (says("I look.", "tool_calls", tool_calls=[{"id": "1"}]), ("empty", "tool_calls", False)),
        (says("I look.", "stop", tool_calls=[{"id": "1"}]), ("empty", "stop", False)),
        (says("42", None, tool_calls=[], function_call=None, refusal=None), ("ok", "", False)),
        (says("42", "end_turn"), ("ok", "end_turn", False)),
        (says("42", "STOP"), ("ok", "STOP", False)),
        (says("4", "MAX_TOKENS"), ("truncated", "MAX_TOKENS", False)),
        (says("4", "quiescence"), ("truncated", "quiescence", False)),
        (says("4", {"type": "length", "length": 5}), ("truncated", "length", False)),
        (says("4", 7), ("truncated", "7", False)),
        (says("4", "stop", usage=(7, 1024)), ("truncated", "stop", False)),
        (says("42", "stop", usage=(7, 1023)), ("ok", "stop", False)),
        (beside(says("42"), reply={"usage": THOUGHT_LONG}), ("ok", "stop", False)),
        (beside(says("4", "SAFETY"), choice={"error": {"message": "flagged"}}), ("refused", "SAFETY", False)),
        (
            beside(says("42"), choice={"error": {"code": 0, "message": ""}}, reply={"error": None}),
            ("ok", "stop", False),
        ),
        (beside(says("4"), choice={"native_finish_reason": "MAX_TOKENS"}), ("truncated", "MAX_TOKENS", False)),
        (beside(says("42"), choice={"native_finish_reason": "done", "error": None}), ("ok", "stop", False)),
        (says("<|channel|>analysis<|message|>6 * 7<|end|><|start|>assistant<|channel|>final<|message|>42"), STRIPPED),
        (says("42<|im_end|>"), STRIPPED),
        (
            says([{"type": "thinking", "thinking": [{"type": "text", "text": "6"}]}, {"type": "text", "text": "42"}]),
            STRIPPED,
        ),
        (says([{"type": "reasoning", "text": "6 * 7"}, {"type": "text", "text": "42"}]), STRIPPED),
        (says("42", thinking="6 * 7"), STRIPPED),
        (says(None, reasoning_content="42"), ("empty", "stop", True)),
        (says([{"type": "refusal", "refusal": "I will not."}]), ("refused", "stop", False)),
        (says("Once upon", "length"), ("truncated", "length", False)),
        (says("<think>still thinking", "length"), ("truncated", "length", True)),
        (says("42", reasoning_content="6 * 7"), ("ok", "stop", True)),
        (says("<think>6 * 7</think>\n\n42"), ("ok", "stop", True)),
    ],
)
def test_each_kind_of_answer_gets_its_status(serve, endpoint, ask, response, expected):
    server = serve(lambda request: response)
    [(_, answer)] = endpoint(server).ask(ask("q"))
    assert (answer.status, answer.finish_reason, answer.reasoning_stripped) == expected
    assert answer.text == "42" or answer.status != "ok"
    assert len(server.requests) == 1


def test_text_in_parts_and_half_a_character(serve, endpoint, ask):
    parts = [{"type": "text", "text": "left "}, {"type": "text", "text": "right \ud83d"}]
    server = serve(lambda request: says(parts))
    [(_, answer)] = endpoint(server).ask(ask("q"))
    assert answer.text == "left right ?"


def test_as_many_at_once_as_allowed_and_no_more(serve, endpoint, ask):
    together = threading.Barrier(3, timeout=30.0)

    def wait_for_the_others(request):
        together.wait()  # breaks, and fails the test, if fewer than 3 requests are ever under way
        return says(request.prompt)

    server = serve(wait_for_the_others)
    answers = list(endpoint(server, concurrency=3).ask(ask(*"abcdefghi")))
    assert sorted(texts(answers)) == list("abcdefghi")
    assert all(question.messages[0].content == answer.text for question, answer in answers)
    assert server.most_at_once == 3


def test_answers_are_yielded_as_they_arrive(serve, endpoint, ask):
    first_is_out = threading.Event()

    def second_waits(request):
        if request.prompt == "second":
            assert first_is_out.wait(30.0)
        return says(request.prompt)

    server = serve(second_waits)
    arriving = endpoint(server, concurrency=2).ask(ask("second", "first"))
    assert next(arriving)[1].text == "first"
    first_is_out.set()
    assert next(arriving)[1].text == "second"


@pytest.mark.parametrize(
    ("limit", "answered", "words"),
    [
        # A question may take 1 byte + 8 for the template + 5 = 14 tokens, at 1 and 2 a token 9 + 10 = 19. It takes
        # 7 + 5 = 12, which cost 7 + 10 = 17.
        ({"max_calls": 3}, 3, "max_calls (3) is reached: 3 requests have used 36 tokens. 3"),
        ({"max_tokens_total": 14}, 1, "max_tokens_total (14) is reached: 1 request has used 12 tokens"),
        ({"max_tokens_total": 25}, 1, "max_tokens_total (25) is reached: 1 request has used 12 tokens"),
        ({"max_tokens_total": 26}, 2, "max_tokens_total (26) is reached: 2 requests have used 24 tokens"),
        ({"max_cost": 35.0}, 1, "max_cost (35) is reached: 1 request has used 12 tokens, at a cost of 17"),
        ({"max_cost": 36.0}, 2, "max_cost (36) is reached: 2 requests have used 24 tokens, at a cost of 34"),
    ],
)
def test_a_limit_stops_and_keeps_what_is_there(serve, endpoint, ask, limit, answered, words):
    server = serve(lambda request: says(request.prompt))
    prices = {"price_in": 1e6, "price_out": 2e6} if "max_cost" in limit else {}
    answers, error = until_it_stops(endpoint(server, max_tokens=5, **prices, **limit).ask(ask(*"abcdefgh")))
    assert [answer.text for answer in answers] == list("abcdefgh")[:answered]
    assert len(server.requests) == answered
    assert isinstance(error, TeacherError)
    assert f"The limit teacher.{words}" in error.message
    assert f"{answered} of 8 prompts" in error.message
    assert "same command again" in error.hint


@pytest.mark.parametrize("limit", [{"max_tokens_total": 100}, {"max_cost": 130.0, "price_in": 1e6, "price_out": 2e6}])
def test_limits_hold_with_many_requests_on_their_way(serve, endpoint, ask, limit):
    """Eight at once could take 8 * 14 = 112 tokens, or 8 * 19 = 152: each answer is as long as it may be."""
    together = threading.Barrier(6, timeout=30.0)

    def as_long_as_it_may_be(request):
        if request.number <= 6:
            together.wait()  # as many as fit leave at once
        return says(request.prompt, usage=(9, 5))

    server = serve(as_long_as_it_may_be)
    teacher = endpoint(server, max_tokens=5, concurrency=8, **limit)
    answers, error = until_it_stops(teacher.ask(ask(*"abcdefghijklmnop")))
    [(name, most)] = [(name, value) for name, value in limit.items() if name.startswith("max_")]
    each = 14 if name == "max_tokens_total" else 9 + 2 * 5
    assert len(server.requests) == len(answers) == most // each
    assert f"teacher.{name}" in error.message


def test_a_question_without_room_waits_for_what_others_give_back(serve, endpoint, ask):
    """Of 40 tokens two questions set aside 28; when one has used 12, a third has room, and a fourth never."""
    together = threading.Barrier(2, timeout=30.0)

    def two_at_once(request):
        if request.number <= 2:
            together.wait()
        return says(request.prompt)

    server = serve(two_at_once)
    answers, error = until_it_stops(
        endpoint(server, max_tokens=5, concurrency=4, max_tokens_total=40).ask(ask(*"abcd"))
    )
    assert len(answers) == 3
    assert server.most_at_once == 2
    assert "3 requests have used 36 tokens" in error.message


def test_a_long_question_without_room_does_not_keep_short_ones_from_being_asked(serve, endpoint, ask):
    server = serve(lambda request: says(request.prompt))
    asked = ask("x" * 1000, "a", "b")
    answers, error = until_it_stops(endpoint(server, max_tokens=5, max_tokens_total=100).ask(asked))
    assert [answer.text for answer in answers] == ["a", "b"]
    assert "2 requests have used 24 tokens" in error.message


def test_a_limit_below_a_single_answer_asks_nothing(serve, endpoint, ask):
    server = serve(lambda request: says(request.prompt))
    _, error = until_it_stops(endpoint(server, max_tokens=500, max_tokens_total=400).ask(ask("a")))
    assert "nothing has been asked yet, and the next may take 508 tokens or more" in error.message
    assert "lower teacher.max_tokens" in error.hint
    assert server.requests == []


def test_answers_beyond_the_longest_allowed_are_expected_from_then_on(serve, endpoint, ask):
    """Reasoning that some do not count towards the limit: 7 + 50 used where 14 were set aside, then 9 + 50 are."""
    server = serve(lambda request: says(request.prompt, usage=(7, 50)))
    answers, error = until_it_stops(endpoint(server, max_tokens=5, max_tokens_total=110).ask(ask(*"abcd")))
    assert len(answers) == 1
    assert "used 57 tokens, and the next may take 58 tokens or more" in error.message


def test_prompts_that_are_longer_than_thought_are_expected_from_then_on(serve, endpoint, ask):
    """A server's own system message: 100 tokens where 9 were expected."""
    server = serve(lambda request: says(request.prompt, usage=(100, 5)))
    answers, _ = until_it_stops(endpoint(server, max_tokens=5, max_tokens_total=200).ask(ask(*"abcd")))
    assert len(answers) == 1


def test_what_may_be_charged_for_an_unanswered_request_counts_in_full(serve, endpoint, ask):
    """The connection broke while it was answered: 14 of 40 tokens; then one answer takes 12."""
    server = serve(first_then(DROP, says("x")))
    answers, error = until_it_stops(endpoint(server, max_tokens=5, max_tokens_total=39).ask(ask(*"abcd")))
    assert len(answers) == 1
    assert "2 requests have used 26 tokens" in error.message


def test_a_request_that_failed_costs_nothing(serve, endpoint, ask):
    server = serve(first_then(fails(500), fails(429), says("x")))
    assert len(list(endpoint(server, max_tokens=5, max_tokens_total=14).ask(ask("a")))) == 1


def test_limits_are_those_of_a_command_not_of_one_asking(serve, endpoint, ask):
    server = serve(lambda request: says(request.prompt))
    teacher = endpoint(server, max_calls=3)
    assert len(list(teacher.ask(ask("a", "b")))) == 2
    answers, _ = until_it_stops(teacher.ask(ask("c", "d")))
    assert [answer.text for answer in answers] == ["c"]


def test_a_limit_that_is_just_enough_is_no_error(serve, endpoint, ask):
    server = serve(lambda request: says(request.prompt))
    assert texts(endpoint(server, max_calls=3).ask(ask(*"abc"))) == list("abc")


def test_calls_are_counted_with_their_retries_and_exactly(serve, endpoint, ask):
    server = serve(lambda request: fails(500) if request.number % 2 else says("ok"))
    with pytest.raises(TeacherError, match="max_calls"):
        list(endpoint(server, max_calls=5, concurrency=4).ask(ask(*"abcdefgh")))
    assert len(server.requests) == 5


def test_what_broke_off_is_counted_too(serve, endpoint, ask):
    server = serve(lambda request: says("Half", "error") if request.number == 1 else says("Whole"))
    with pytest.raises(TeacherError, match=r"max_tokens_total .* 1 of 2 prompts"):
        # 7 + 5 for either half; a third request may take 14.
        list(endpoint(server, max_tokens=5, max_tokens_total=37).ask(ask("a", "b")))
    assert server.prompts == ["a", "a"]


def test_tokens_are_estimated_where_none_are_reported(serve, endpoint, ask):
    # 30 bytes of prompt and 30 of answer are 10 + 10 tokens at 3 bytes a token.
    server = serve(lambda request: says("x" * 30, usage=None))
    with pytest.raises(TeacherError, match="2 requests have used 40 tokens"):
        list(endpoint(server, max_tokens=10, max_tokens_total=87).ask(ask("a" * 30, "b" * 30, "c" * 30)))
    assert len(server.requests) == 2  # each may take 30 + 8 + 10


def test_leaving_early_closes_the_connections(serve, endpoint, ask):
    server = serve(lambda request: says(request.prompt) if request.number == 1 else _hang(server))
    arriving = endpoint(server, concurrency=4).ask(ask(*"abcdefgh"))
    next(arriving)
    arriving.close()  # would hang, or warn of pending tasks, if anything was left
    assert len(server.requests) <= 5


def test_ctrl_c_while_waiting_keeps_what_arrived(serve, endpoint, ask):
    def interrupt(request):
        if request.prompt == "c":
            os.kill(os.getpid(), signal.SIGINT)
            server.released.wait()
        return says(request.prompt)

    server = serve(interrupt)
    answers, error = until_it_stops(endpoint(server).ask(ask(*"abcd")))
    assert isinstance(error, KeyboardInterrupt)
    assert [answer.text for answer in answers] == ["a", "b"]


@pytest.mark.parametrize("number", SIGNALS, ids=lambda number: number.name)
def test_what_is_on_its_way_when_a_signal_comes_is_kept(number, serve, endpoint, ask):
    """The answers to what was sent are paid for; nothing more is asked."""
    both_sent = threading.Barrier(2, timeout=30.0)

    def answer(request):
        if request.prompt in ("a", "b") and both_sent.wait() == 0:
            os.kill(os.getpid(), number)
        time.sleep(0.05)  # the signal is there first
        return says(request.prompt)

    server = serve(answer)
    answers: list[Answer] = []

    def keep() -> None:
        with working():
            answers.extend(answer for _, answer in endpoint(server, concurrency=2).ask(ask(*"abcdefgh")))

    with pytest.raises(Stopped) as stopped:
        keep()
    assert stopped.value.exit_code == 128 + number
    assert len(server.requests) == 2
    assert sorted(server.prompts) == ["a", "b"]


def test_an_answer_that_does_not_come_is_waited_for_briefly(serve, endpoint, ask, monkeypatch):
    def interrupt(request):
        os.kill(os.getpid(), signal.SIGTERM)
        return _hang(server)

    monkeypatch.setattr("pudistill_cli.teacher.endpoint.ON_THEIR_WAY", 0.05)
    server = serve(interrupt)
    with pytest.raises(Stopped), working():
        list(endpoint(server).ask(ask("a", "b")))
    assert server.prompts == ["a"]


def _hang(server) -> Response:
    server.released.wait()
    return DROP


def test_the_identity_is_what_an_answer_depends_on():
    def identity(**settings):
        return Endpoint(EndpointTeacher(**{"model": "m", **settings})).identity()

    same = [
        {"concurrency": 2},
        {"timeout": 3.0},
        {"retries": 0},
        {"max_calls": 7},
        {"api_key_env": "OTHER"},
        {"min_score": 1.0},
    ]
    other = [
        {"model": "n"},
        {"base_url": "http://localhost/v1"},
        {"system": "s"},
        {"temperature": 0.0},
        {"top_p": 0.5},
        {"max_tokens": 9},
        {"extra_body": {"a": 1}},
    ]
    assert {identity(**settings) for settings in same} == {identity()}
    assert len({identity(), *(identity(**settings) for settings in other)}) == 1 + len(other)
    assert identity(extra_body={"a": 1, "b": 2}) == identity(extra_body={"b": 2, "a": 1})
