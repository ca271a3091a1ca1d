"""The key: from the named variable, to the endpoint, and nowhere else."""

from __future__ import annotations

import json
import logging
import traceback

import pytest

from pudistill_cli.errors import TeacherError
from pudistill_cli.teacher.asking import ask_all
from pudistill_cli.teacher.cache import AnswerCache
from tests.pudistill_cli.teacher.server import Response, fails, says

CANARY = "sk-canary-0123456789/abcdef"


@pytest.fixture
def key(monkeypatch):
    monkeypatch.setenv("CANARY_KEY", CANARY)


def shown_by(error: BaseException) -> str:
    """Everything an error could show: text, hint, fields, chain, and a traceback with variables."""
    assert error.__traceback__ is not None
    below_the_test = error.__traceback__.tb_next
    shown = traceback.TracebackException(type(error), error, below_the_test, capture_locals=True)
    assert any("questions" in (frame.locals or {}) for frame in shown.stack), "no variables in the traceback"
    chain = [error.__cause__, error.__context__]
    return "".join(shown.format()) + repr(error) + repr(vars(error)) + repr(chain)


def test_it_reaches_the_endpoint(serve, endpoint, ask, key):
    server = serve(lambda request: says("hello"))
    list(endpoint(server, api_key_env="CANARY_KEY").ask(ask("q")))
    assert server.requests[0].headers["authorization"] == f"Bearer {CANARY}"


ECHO = f"bad key {CANARY}, that is Bearer {CANARY}"


@pytest.mark.parametrize(
    "response",
    [
        fails(401, ECHO),
        fails(403, ECHO),
        fails(404, ECHO),
        fails(400, ECHO),
        fails(500, ECHO),
        fails(429, ECHO, {"Retry-After": "100000"}),
        Response(500, json.dumps({"error": ECHO}).replace("/", "\\/").encode()),
        Response(200, ECHO.encode()),
        Response(307, b"", {"Location": f"http://127.0.0.1:1/?key={CANARY}"}),
        says(ECHO),
        says(None, refusal=ECHO),
    ],
    ids=lambda response: str(response.status),
)
def test_an_endpoint_that_repeats_it_is_not_quoted(serve, endpoint, ask, key, response, tmp_path, caplog):
    caplog.set_level(logging.DEBUG)
    server = serve(lambda request: response)
    teacher = endpoint(server, api_key_env="CANARY_KEY", retries=1)
    seen = [teacher.name, teacher.identity(), repr(teacher), repr(vars(teacher))]
    with AnswerCache(tmp_path / "answers.sqlite") as cache:
        try:
            seen.append(repr(ask_all(teacher, ask("a", "b"), cache, lambda q, a: seen.append(repr((q, a))))))
        except TeacherError as error:
            seen.append(shown_by(error))
        on_disk = b"".join(path.read_bytes() for path in tmp_path.iterdir())
    logged = [repr((record.getMessage(), record.args)) for record in caplog.records]
    assert CANARY in server.requests[0].headers["authorization"]
    assert any("HTTP Request" in line for line in logged), "nothing was logged: the test would show nothing"
    for secret in (CANARY, CANARY.replace("/", "\\/")):
        assert secret not in "\n".join([*seen, *logged])
        assert secret.encode() not in on_disk


def test_a_missing_one_is_named(serve, endpoint, ask, monkeypatch):
    monkeypatch.delenv("CANARY_KEY", raising=False)
    server = serve(lambda request: says("hello"))
    with pytest.raises(TeacherError, match=r"CANARY_KEY.* is not set") as error:
        list(endpoint(server, api_key_env="CANARY_KEY").ask(ask("q")))
    assert "export CANARY_KEY=" in error.value.hint
    assert server.requests == []


@pytest.mark.parametrize("value", [f"{CANARY}\nX-Other: 1", f"{CANARY} {CANARY}", f"{CANARY}é"])
def test_one_that_is_none_is_refused_without_showing_it(serve, endpoint, ask, monkeypatch, value):
    monkeypatch.setenv("CANARY_KEY", value)
    server = serve(lambda request: says("hello"))
    with pytest.raises(TeacherError, match="CANARY_KEY holds a space") as error:
        list(endpoint(server, api_key_env="CANARY_KEY").ask(ask("q")))
    assert CANARY not in shown_by(error.value)
    assert server.requests == []


def test_space_around_it_is_left_out(serve, endpoint, ask, monkeypatch):
    monkeypatch.setenv("CANARY_KEY", f" {CANARY}\n")
    server = serve(lambda request: says("hello"))
    list(endpoint(server, api_key_env="CANARY_KEY").ask(ask("q")))
    assert server.requests[0].headers["authorization"] == f"Bearer {CANARY}"


def test_a_placeholder_may_be_a_word_of_an_answer(serve, endpoint, ask, monkeypatch):
    monkeypatch.setenv("CANARY_KEY", "EMPTY")
    server = serve(lambda request: says("The box is EMPTY."))
    [(_, answer)] = endpoint(server, api_key_env="CANARY_KEY").ask(ask("q"))
    assert answer.text == "The box is EMPTY."
