"""Fixtures for every test: no connection beyond loopback, and the shared real data where it is present."""

from __future__ import annotations

import ipaddress
import os
import socket
from pathlib import Path

import pytest

os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

ROOT = Path(__file__).resolve().parent.parent
_connect = socket.socket.connect


class ConnectionBeyondLoopbackError(AssertionError):
    """A test tried to reach another machine."""


def _loopback(address: object) -> bool:
    if isinstance(address, str | bytes):  # a Unix socket
        return True
    host = address[0] if isinstance(address, tuple) and address else ""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fail every connection beyond loopback, by address and by name."""

    def connect(self: socket.socket, address: object) -> None:
        if not _loopback(address):
            raise ConnectionBeyondLoopbackError(f"connection to {address!r}")
        _connect(self, address)

    real = socket.getaddrinfo

    def getaddrinfo(host: object, *args: object, **kwargs: object) -> object:
        name = host.decode() if isinstance(host, bytes) else host
        if name not in (None, "localhost") and not _loopback((name,)):
            raise ConnectionBeyondLoopbackError(f"name lookup of {name!r}")
        return real(host, *args, **kwargs)

    monkeypatch.setattr(socket.socket, "connect", connect)
    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder with a real checkpoint, real tokenizers and real prompts; skips where it is missing."""
    folder = ROOT.parent / "shared"
    if not (folder / "models").is_dir():
        pytest.skip("needs the shared checkpoint, tokenizers and prompts beside the repository")
    return folder
