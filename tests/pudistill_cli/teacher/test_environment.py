"""`${NAME}` in a teacher's settings: sent, and stored and shown nowhere; and secrets that stand in the recipe."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from pudistill_cli.config.teacher import EndpointTeacher
from pudistill_cli.errors import TeacherError
from pudistill_cli.teacher.endpoint import Endpoint
from pudistill_cli.teacher.environment import as_sent
from tests.pudistill_cli.teacher.server import Response, Server, fails, says
from tests.pudistill_cli.teacher.test_key import shown_by
from tests.tiny import Ended, Tiny

VALUE = 'env-value/0123456789"x'
LITERAL = "literal-0123456789"
TOKEN = "3f8a9c2d7b6e4f1a0c9d8e7f6a5b4c3d"
BODY = {"deep": [{"header": "Bearer ${SOME_VALUE}"}], "password": LITERAL, "price": "$${SOME_VALUE} or $5"}


@pytest.fixture
def value(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOME_VALUE", VALUE)


def test_variables_are_filled_in_at_any_depth_when_it_is_sent(serve, ask, value) -> None:
    server = serve(lambda request: says("four"))
    base = server.url.removesuffix("/v1")
    list(Endpoint(EndpointTeacher(model="m", base_url=f"{base}/${{SOME_VALUE}}/v1", extra_body=BODY)).ask(ask("q")))
    [request] = server.requests
    assert request.path.startswith("/env-value/0123456789")
    assert request.body["deep"] == [{"header": f"Bearer {VALUE}"}]
    assert request.body["password"] == LITERAL
    assert request.body["price"] == "${SOME_VALUE} or $5"


@pytest.mark.parametrize("content", [None, "", "  "])
def test_one_that_is_not_set_stops_before_anything_is_asked(content, serve, endpoint, ask, monkeypatch) -> None:
    monkeypatch.delenv("SOME_VALUE", raising=False)
    if content is not None:
        monkeypatch.setenv("SOME_VALUE", content)
    server = serve(lambda request: says("four"))
    with pytest.raises(TeacherError, match=r"variable SOME_VALUE, .* is not set"):
        list(endpoint(server, extra_body=BODY).ask(ask("q")))
    assert server.requests == []


ECHO = f"bad {VALUE} and {LITERAL} at /{TOKEN}/v1"


@pytest.mark.parametrize(
    "response",
    [
        fails(404, ECHO),
        fails(400, ECHO),
        fails(500, ECHO),
        says(ECHO),
        says("x", ECHO),
        Response(307, b"", {"Location": f"http://h/{TOKEN}"}),
    ],
    ids=["404", "400", "500", "text", "reason", "307"],
)
def test_no_secret_comes_back_in_answers_errors_or_logs(response, serve, ask, value, caplog) -> None:
    caplog.set_level(logging.DEBUG)
    server = serve(lambda request: response)
    base = server.url.removesuffix("/v1")
    settings = EndpointTeacher(model="m", base_url=f"{base}/{TOKEN}/v1", extra_body=BODY, retries=1)
    teacher = Endpoint(settings, backoff=0.001)
    seen = [teacher.name, teacher.identity(), repr(settings)]
    try:
        seen += [repr(answer) for answer in teacher.ask(ask("q"))]
    except TeacherError as error:
        seen.append(shown_by(error))
    seen += [repr((record.getMessage(), record.args)) for record in caplog.records]
    assert any("HTTP Request" in line for line in seen), "nothing was logged: the test would show nothing"
    for secret in (VALUE, json.dumps(VALUE)[1:-1], LITERAL, TOKEN):
        assert secret not in "\n".join(seen)


def test_the_identity_knows_another_secret_from_the_same_one(value) -> None:
    def identity(body: dict[str, object]) -> str:
        return Endpoint(EndpointTeacher(model="m", extra_body=body)).identity()

    assert identity({"password": "one"}) == identity({"password": "one"}) != identity({"password": "two"})
    assert "${SOME_VALUE}" in identity({"password": "${SOME_VALUE}"})
    [shown] = json.loads(identity({"password": "one"}))["extra_body"].values()
    assert identity({"password": shown}) == identity({"password": "one"})  # a run's own recipe is the same teacher


def test_what_was_left_out_is_named_by_its_place() -> None:
    settings = EndpointTeacher(model="m", extra_body={"deep": {"password": "REDACTED-01234567"}})
    with pytest.raises(TeacherError, match=r"teacher\.extra_body\.deep\.password lacks a secret") as error:
        as_sent(settings)
    assert "--set teacher.extra_body.deep.password=" in error.value.hint


def test_nothing_of_a_run_holds_a_secret_and_it_still_goes_on(
    tmp_path: Path, value, call: Callable[..., Ended], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The recipe is the person's own; all that is made of it can be shared."""
    cache = tmp_path / "cache"
    monkeypatch.setenv("PUDISTILL_CACHE", str(cache))
    with Server(lambda request: says('{"do":"book"}')).running() as server:
        base = server.url.removesuffix("/v1")
        teacher = {"kind": "openai", "model": "m", "base_url": f"{base}/{TOKEN}/v1", "extra_body": BODY}
        tiny = Tiny.make(tmp_path / "made", teacher=teacher, prefer={"rounds": 0})
        said = [call(*tiny.arguments("--until", "anchors", "--json"))]
        asked = len(server.requests)
        said.append(call(*tiny.arguments("--until", "sft")))
        own = tiny.run / "recipe.yaml"
        said.append(call("run", str(own), "--runs", str(tiny.runs)))  # all is answered
        assert [ended.code for ended in said] == [0, 0, 0], said[-1].err
        assert len(server.requests) == asked
        monkeypatch.setenv("PUDISTILL_CACHE", str(tmp_path / "empty"))
        refused = call("run", str(own), "--runs", str(tiny.runs), "--name", "other")
        assert refused.code == 4
        assert "teacher.base_url lacks a secret" in refused.flat
        assert len(server.requests) == asked
    again = call(*tiny.arguments("--set", f"teacher.base_url={base}/v1/{LITERAL}"))
    assert again.code == 7  # another address is another run, shown by its hash
    assert "REDACTED-" in again.err
    files = [p for folder in (tiny.runs, cache) for p in folder.rglob("*") if p.is_file()]
    assert {"recipe.yaml", "run.json", "ledger.sqlite", "report.html", "anchors.sqlite"} <= {p.name for p in files}
    held = [(p.name, p.read_bytes()) for p in files]
    shown = [("screen", (e.out + e.err).encode()) for e in (*said, refused, again)]
    for secret in (VALUE, json.dumps(VALUE)[1:-1], LITERAL, TOKEN):
        assert not [name for name, content in (*held, *shown) if secret.encode() in content]


def test_a_run_of_an_older_version_goes_on_and_loses_its_secrets(
    tmp_path: Path, value, call: Callable[..., Ended]
) -> None:
    with Server(lambda request: says('{"do":"book"}')).running() as server:
        teacher = {"kind": "openai", "model": "m", "base_url": server.url, "extra_body": {"password": LITERAL}}
        tiny = Tiny.make(tmp_path, teacher=teacher)
        assert call(*tiny.arguments("--until", "anchors")).code == 0
        record = tiny.run / "state" / "run.json"
        held = json.loads(record.read_text())
        assert held["identity"]["teacher.extra_body.password"].startswith("REDACTED-")
        held["identity"]["teacher.extra_body.password"] = LITERAL
        record.write_text(json.dumps(held))
        assert call(*tiny.arguments("--until", "anchors")).code == 0
    assert LITERAL not in record.read_text()
    assert yaml.safe_load((tiny.run / "recipe.yaml").read_text())["teacher"]["extra_body"] != {"password": LITERAL}
