"""An endpoint on loopback needs no proxy and no certificates; for another, what is wrong with them is one error."""

from __future__ import annotations

import pytest

from pudistill_cli.config.teacher import EndpointTeacher
from pudistill_cli.errors import TeacherError
from pudistill_cli.teacher.endpoint import Endpoint
from pudistill_cli.teacher.http_client import route_to
from tests.pudistill_cli.teacher.server import says

VARIABLES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY")
BROKEN = {
    "HTTP_PROXY": "http://127.0.0.1:1",
    "HTTPS_PROXY": "junk://proxy.example",
    "ALL_PROXY": "socks4://proxy.example:99999",
    "NO_PROXY": "[::1,fe80::/10",
    "SSL_CERT_FILE": "/nowhere/cert.pem",
    "SSL_CERT_DIR": "/nowhere",
    "REQUESTS_CA_BUNDLE": "/nowhere/cert.pem",
}


@pytest.fixture(autouse=True)
def bare(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)
    for name in ("SSL_CERT_FILE", "SSL_CERT_DIR"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def broken(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in BROKEN.items():
        monkeypatch.setenv(name, value)


def refusal(base_url: str, ask) -> TeacherError:
    with pytest.raises(TeacherError) as error:
        list(Endpoint(EndpointTeacher(model="m", base_url=base_url, retries=0)).ask(ask("q")))
    return error.value


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_loopback_needs_neither(serve, ask, broken, host):
    server = serve(lambda request: says("four"))
    settings = EndpointTeacher(model="m", base_url=server.url.replace("127.0.0.1", host), retries=0)
    [(_, answer)] = Endpoint(settings).ask(ask("2 + 2?"))
    assert answer.text == "four"


def test_loopback_over_tls_keeps_its_own_authority_and_needs_none(monkeypatch, broken):
    assert route_to("https://127.0.0.1:1/v1").trust.get_ca_certs()
    monkeypatch.delenv("SSL_CERT_FILE")
    assert route_to("https://[::1]:1/v1").proxy is None


def test_plain_http_needs_no_certificates(monkeypatch):
    monkeypatch.setenv("SSL_CERT_FILE", BROKEN["SSL_CERT_FILE"])
    assert route_to("http://10.0.0.1:1/v1").trust.get_ca_certs() == []
    monkeypatch.setenv("HTTP_PROXY", "https://proxy.example:1")
    with pytest.raises(TeacherError, match="SSL_CERT_FILE names"):
        route_to("http://10.0.0.1:1/v1")


@pytest.mark.parametrize(
    ("variable", "said"),
    [
        ("HTTPS_PROXY", "HTTPS_PROXY names no proxy that can be used: junk:// is none of"),
        ("ALL_PROXY", "ALL_PROXY names no proxy that can be used: its host or port cannot be read"),
        ("SSL_CERT_FILE", "SSL_CERT_FILE names /nowhere/cert.pem, which cannot be read"),
        ("SSL_CERT_DIR", "SSL_CERT_DIR names /nowhere, which is no folder"),
    ],
)
def test_one_clear_error_before_anything_is_sent(monkeypatch, ask, variable, said):
    monkeypatch.setenv(variable, BROKEN[variable])
    error = refusal("https://api.example.com/v1", ask)
    assert error.message.startswith(said)
    assert f"unset {variable}" in error.hint


def test_a_proxy_that_only_the_client_finds_bad_is_the_same_error(monkeypatch, ask):
    monkeypatch.setenv("HTTPS_PROXY", "http://user:secret@proxy\u2024example")  # a letter that no host has
    error = refusal("https://api.example.com/v1", ask)
    assert error.message.startswith("HTTPS_PROXY names no proxy that can be used")
    assert "secret" not in error.message + error.hint


def test_what_is_not_for_an_address_does_no_harm(monkeypatch):
    monkeypatch.setenv("HTTP_PROXY", "junk://proxy.example")
    monkeypatch.setenv("NO_PROXY", BROKEN["NO_PROXY"])
    assert route_to("https://api.example.com/v1").proxy is None


def test_a_proxy_that_is_not_there_is_named(monkeypatch, ask):
    monkeypatch.setenv("http_proxy", "http://user:secret@127.0.0.1:1")
    error = refusal("http://api.example.com/v1", ask)
    assert "cannot be reached after 1 try" in error.message
    assert "the proxy in http_proxy" in error.hint
    assert "secret" not in error.message + error.hint


def test_a_proxy_that_refuses_is_named(monkeypatch, ask, serve):
    server = serve(lambda request: says("never"))  # knows no CONNECT: 501
    monkeypatch.setenv("https_proxy", server.url.removesuffix("/v1"))
    error = refusal("https://api.example.com/v1", ask)
    assert "cannot be reached after 1 try" in error.message
    assert "the proxy in https_proxy" in error.hint
    assert server.requests == []


def test_a_server_without_tls_is_not_asked_again(serve, endpoint, ask):
    server = serve(lambda request: says("never"))
    error = refusal(server.url.replace("http:", "https:"), ask)
    assert "does not speak TLS" in error.message
    assert "http://" in error.hint
