"""A simulated machine: what its files and programs say."""

from __future__ import annotations

import sys

import pytest

from pudistill_cli.backend_api import cpu


@pytest.fixture
def files(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Texts by path; any other file is not there."""
    texts: dict[str, str] = {}
    monkeypatch.setattr(cpu, "text_of", lambda path: texts.get(str(path), ""))
    return texts


@pytest.fixture
def programs(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Output by program and last argument; anything else is not there."""
    outputs: dict[str, str] = {}
    monkeypatch.setattr(cpu, "output_of", lambda *call: outputs.get(f"{call[0]} {call[-1]}", ""))
    return outputs


@pytest.fixture
def linux(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr("os.sysconf", {"SC_PAGE_SIZE": 4096, "SC_PHYS_PAGES": 4 << 20}.__getitem__, raising=False)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
