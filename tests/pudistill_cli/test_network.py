"""Proxies and certificates of the environment: good ones are used, others are one clear error; loopback needs none."""

from __future__ import annotations

from pathlib import Path

import certifi
import pytest

from pudistill_cli.errors import TeacherError
from pudistill_cli.network import Proxy, check_certificates, check_every_proxy, is_loopback, proxy_for

VARIABLES = ("http_proxy", "https_proxy", "all_proxy", "no_proxy")
AWAY = "https://api.example.com/v1"


@pytest.fixture(autouse=True)
def bare(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    for name in ("SSL_CERT_FILE", "SSL_CERT_DIR"):
        monkeypatch.delenv(name, raising=False)


LOOPBACK = "localhost LOCALHOST localhost. a.localhost 127.0.0.1 127.8.7.6 127.1 ::1 [::1] 0.0.0.0 :: ::ffff:127.0.0.1"


@pytest.mark.parametrize("host", LOOPBACK.split())
def test_loopback(host: str) -> None:
    assert is_loopback(host)


@pytest.mark.parametrize("host", ["", "api.example.com", "localhost.example.com", "128.0.0.1", "10.0.0.1", "12", "::2"])
def test_no_loopback(host: str) -> None:
    assert not is_loopback(host)


def test_the_proxy_of_an_address(monkeypatch: pytest.MonkeyPatch) -> None:
    assert proxy_for(AWAY, TeacherError) is None
    monkeypatch.setenv("ALL_PROXY", "proxy.example:8080")
    assert proxy_for(AWAY, TeacherError) == Proxy("http://proxy.example:8080", "ALL_PROXY")
    monkeypatch.setenv("https_proxy", "http://user:word@other.example:1")
    assert proxy_for(AWAY, TeacherError) == Proxy("http://user:word@other.example:1", "https_proxy")
    assert proxy_for("http://api.example.com/v1", TeacherError) == Proxy("http://proxy.example:8080", "ALL_PROXY")
    assert proxy_for("http://127.0.0.1:8000/v1", TeacherError) is None
    monkeypatch.setenv("NO_PROXY", "[::1,fe80::/10,.example.com")
    assert proxy_for(AWAY, TeacherError) is None


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        ("junk://u:secret@proxy.example:1", "junk:// is none of http://, https://, socks5://, socks5h://"),
        ("socks4://proxy.example:1", "socks4:// is none of"),
        ("http://", "its host or port cannot be read"),
        ("http://proxy.example:99999", "its host or port cannot be read"),
        ("proxy.example:secret", "its host or port cannot be read"),
        ("http://[::1", "its host or port cannot be read"),
        ("http://a b", "its host or port cannot be read"),
        ("socks5://proxy.example:1", "needs the package socksio"),
    ],
)
def test_a_proxy_that_is_none(monkeypatch: pytest.MonkeyPatch, value: str, problem: str) -> None:
    monkeypatch.setattr("pudistill_cli.network.find_spec", lambda name: None)
    monkeypatch.setenv("HTTPS_PROXY", value)
    with pytest.raises(TeacherError) as error:
        proxy_for(AWAY, TeacherError)
    assert error.value.message.startswith("HTTPS_PROXY names no proxy that can be used: ")
    assert problem in error.value.message
    assert "secret" not in error.value.message + error.value.hint
    assert "unset HTTPS_PROXY" in error.value.hint
    with pytest.raises(TeacherError):
        check_every_proxy(TeacherError)
    assert proxy_for("http://api.example.com/v1", TeacherError) is None  # it is not for this address
    assert proxy_for("https://[::1]:8000/v1", TeacherError) is None


def test_certificates(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    check_certificates(TeacherError)
    monkeypatch.setenv("SSL_CERT_DIR", str(tmp_path / "missing"))
    with pytest.raises(TeacherError, match=r"SSL_CERT_DIR names .*missing, which is no folder"):
        check_certificates(TeacherError)
    monkeypatch.setenv("SSL_CERT_DIR", f"{tmp_path / 'missing'}:{tmp_path}")
    check_certificates(TeacherError)
    empty = tmp_path / "empty.pem"
    empty.write_text("")
    for name, said in (("empty.pem", "there is no certificate"), ("missing", "No such file"), (".", "cannot be read")):
        monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / name))
        with pytest.raises(TeacherError, match=rf"SSL_CERT_FILE names .*{said}") as error:
            check_certificates(TeacherError)
        assert "unset SSL_CERT_FILE" in error.value.hint
    monkeypatch.setenv("SSL_CERT_FILE", certifi.where())
    check_certificates(TeacherError)
