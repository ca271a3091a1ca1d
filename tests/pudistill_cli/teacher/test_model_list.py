"""`GET /models`, before anything is paid for: what stops, what is worth a word, and what says nothing."""

from __future__ import annotations

import json
import socket

import pytest

from pudistill_cli.config.teacher import EndpointTeacher
from pudistill_cli.errors import TeacherError
from pudistill_cli.teacher import http_client, model_list
from pudistill_cli.teacher.model_list import check_models
from tests.pudistill_cli.teacher.server import DROP, Response, fails, says

KEY = "canary-5d1e83b1d8c04f5b"


@pytest.fixture
def listing(serve):
    """A server that answers `GET /models` so."""

    def build(response: Response):
        server = serve(lambda request: says("paid"))
        server.models = response
        return server

    return build


def settings(url: str, **given) -> EndpointTeacher:
    return EndpointTeacher(**{"model": "gpt-4o-mini", "base_url": url, "retries": 0, **given})


def listed(*names: str) -> Response:
    return Response(body=json.dumps({"object": "list", "data": [{"id": name} for name in names]}).encode())


def test_one_get_and_nothing_else(listing, monkeypatch):
    monkeypatch.setenv("CANARY_KEY", KEY)
    server = listing(listed("gpt-4o-mini", "gpt-4o"))
    assert check_models(settings(server.url, api_key_env="CANARY_KEY")) is None
    [(path, headers)] = server.lists
    assert path == "/v1/models"
    assert headers["authorization"] == f"Bearer {KEY}"
    assert server.requests == []


@pytest.mark.parametrize(
    "response",
    [
        *(fails(status) for status in (400, 404, 405, 429, 500, 501, 503)),
        Response(302, b"", {"Location": "http://elsewhere/"}),
        Response(200, b"<html><body>Welcome</body></html>", {"Content-Type": "text/html"}),
        Response(200, b""),
        Response(200, b"\xff\xfe\0"),
        Response(200, b"null"),
        Response(200, b"[]"),
        Response(200, b'{"data": null}'),
        Response(200, b'{"data": "gpt"}'),
        Response(200, b'{"data": [{"object": "model"}, 7, null]}'),
        Response(200, b"[" * 100_000),
        Response(200, b"1" * 5000),
        Response(200, b"x", {"Content-Encoding": "gzip"}),
        fails(401, "You have insufficient permissions. Missing scopes: model.read"),
        fails(403, "Missing scopes: api.model.read"),
        Response(403, b"<html><h1>403 Forbidden</h1>nginx</html>"),
        DROP,
    ],
    ids=lambda response: f"{response.status} {response.body[:20]!r}",
)
def test_a_server_without_such_a_list_is_as_good_as_any(listing, response):
    assert check_models(settings(listing(response).url)) is None


@pytest.mark.parametrize(
    ("status", "message", "hint"),
    [(401, "does not accept the key", "api_key_env"), (403, "refuses access .*no, .key.", "may use 'gpt-4o-mini'")],
)
def test_a_key_that_is_none_stops_and_is_not_shown(listing, monkeypatch, status, message, hint):
    monkeypatch.setenv("CANARY_KEY", KEY)
    server = listing(fails(status, f"no, {KEY}"))
    with pytest.raises(TeacherError, match=message) as error:
        check_models(settings(server.url, api_key_env="CANARY_KEY"))
    assert hint in error.value.hint
    assert KEY not in error.value.message


@pytest.mark.parametrize(
    ("model", "names"),
    [
        ("gpt-4o-mini", ("gpt-4o-mini",)),
        ("gemini-2.0-flash", ("models/gemini-2.0-flash", "models/gemini-pro")),
        ("llama3.2", ("llama3.2:latest",)),
        ("org/model:free", ("org/model",)),
    ],
)
def test_a_model_that_is_in_the_list_by_any_of_its_names(listing, model, names):
    assert check_models(settings(listing(listed(*names)).url, model=model)) is None


def test_a_model_that_is_not_in_the_list_is_said_and_what_may_have_been_meant(listing):
    """No error: a router may answer to names of its own, and an unknown model is refused before it costs anything."""
    server = listing(listed("gpt-4o", "gpt-4o-mini", "o1", "o3", "o4"))
    notice = check_models(settings(server.url, model="gpt-4o-mimi"))
    assert notice is not None
    assert "does not list the model 'gpt-4o-mimi' (did you mean 'gpt-4o-mini'?)" in notice
    assert "it lists gpt-4o, gpt-4o-mini, o1, and 2 more" in notice


@pytest.mark.parametrize(
    "body", [{"models": [{"name": "b"}]}, {"models": [{"model": "b"}]}, [{"id": "b"}], ["b"], {"data": ["b"]}]
)
def test_other_forms_of_the_list(listing, body):
    response = Response(body=json.dumps(body).encode())
    assert check_models(settings(listing(response).url, model="b")) is None
    notice = check_models(settings(listing(response).url, model="other"))
    assert notice is not None
    assert "it lists b." in notice


@pytest.mark.parametrize(("room", "said"), [(1024, True), (1025, False), ("1024", False), (None, False)])
def test_a_model_without_room_for_the_longest_answer(listing, room, said):
    """vLLM says what a model takes, prompt and answer together."""
    server = listing(Response(body=json.dumps({"data": [{"id": "m", "max_model_len": room}]}).encode()))
    notice = check_models(settings(server.url, model="m", max_tokens=1024))
    assert (notice is not None) == said
    assert notice is None or "takes 1,024 tokens, prompt and answer together" in notice


def test_names_that_no_terminal_should_see_whole(listing):
    notice = check_models(settings(listing(listed("x" * 10_000, "\ud800\0y")).url))
    assert notice is not None
    assert len(notice) < 500
    assert "?y" in notice


def test_a_list_without_an_end_says_nothing(listing, monkeypatch):
    monkeypatch.setattr(http_client, "LONGEST_REPLY", 1000)
    assert check_models(settings(listing(listed("x" * 2000)).url)) is None


def test_a_slow_server_says_nothing(serve, monkeypatch):
    monkeypatch.setattr(model_list, "TIMEOUT", 1.0)
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        assert check_models(settings(f"http://127.0.0.1:{silent.getsockname()[1]}/v1")) is None


def test_a_server_that_is_not_there_is_tried_again_and_then_missed(monkeypatch):
    waits: list[float] = []
    monkeypatch.setattr(model_list.time, "sleep", waits.append)
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}/v1"
        with pytest.raises(TeacherError, match=r"/v1 cannot be reached: .+\.$") as error:
            check_models(settings(url, retries=5))
    assert waits == [1.0, 2.0]
    assert "Start the server" in error.value.hint


def test_a_server_that_speaks_no_tls(listing):
    url = listing(listed("m")).url.replace("http:", "https:")
    with pytest.raises(TeacherError, match="does not speak TLS"):
        check_models(settings(url))
