"""Where a judge is held: on the card if it fits there, else on the CPU, and where the user says in any case."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pudistill_cli.backend_api.contract import Capabilities, ModelSpec
from pudistill_cli.config.student import StudentSettings
from pudistill_cli.hardware.machine import Hardware
from pudistill_cli.hardware.probes import Card
from pudistill_cli.judging import loading
from pudistill_cli.judging.loading import JudgeSettings, open_judge
from pudistill_cli.method.scorers.templates import Templates
from tests.tiny import STUDENT

BESIDE_BYTES = 4 * 8 * 4_096 * 2 * 80 + 4 * 512 * 768
"""The quickstart's student's cache and logits."""
BYTES = 2 * 205_200 + BESIDE_BYTES
"""With its weights in 16 bits."""


class Engine:
    """Scores nothing."""

    def __init__(self, spec: ModelSpec) -> None:
        self.spec = spec

    def close(self) -> None:
        pass


class Spy:
    """A backend that is told where to go, and goes nowhere."""

    capabilities = Capabilities(sample=True, score=True, learn=True)

    def __init__(self, name: str) -> None:
        self.name = name
        self.specs: list[ModelSpec] = []

    def problem(self) -> None:
        return None

    def architectures(self) -> None:
        return None

    def refusal(self, checkpoint: Path) -> None:
        return None

    def open(self, spec: ModelSpec) -> Engine:
        self.specs.append(spec)
        return Engine(spec)


class FileSpy(Spy):
    """One that opens GGUF files itself."""

    def read_model(self, path: Path) -> Any:
        raise NotImplementedError

    def read_student(self, path: Path) -> Any:
        raise NotImplementedError


def opened(
    monkeypatch: pytest.MonkeyPatch,
    spy: Spy,
    free: int,
    *,
    engine: str = "auto",
    model: Path = STUDENT,
    **settings: Any,
) -> tuple[ModelSpec, list[str]]:
    """What the backend was told on a machine with so many bytes free on its card, and what the user was."""
    cards = (Card("nvidia", "a card", 16.0, free / 2**30),)
    found = Hardware("Linux", "x86_64", memory_gib=64.0, free_gib=60.0, cards=cards, torch="cuda")
    monkeypatch.setattr(loading, "detect", lambda: found)
    monkeypatch.setattr(loading, "backends", lambda: {spy.name: spy})
    told: list[str] = []
    judge = JudgeSettings(Templates(), StudentSettings(model=str(model), **settings))
    with open_judge(judge, None, engine, None, told.append):
        return spy.specs[-1], [notice for notice in told if "not used" in notice]


@pytest.mark.parametrize("engine", ["auto", "torch"])
def test_a_judge_that_does_not_fit_the_card_goes_to_the_cpu_and_says_so(
    monkeypatch: pytest.MonkeyPatch, engine: str
) -> None:
    spec, told = opened(monkeypatch, Spy("torch"), BYTES, engine=engine)
    assert (spec.device, told) == ("auto", [])
    spec, (notice,) = opened(monkeypatch, Spy("torch"), BYTES - 1, engine=engine)
    assert spec.device == "cpu"
    assert notice.startswith("The a card is not used: the model takes about 0.0 GiB")


@pytest.mark.parametrize("device", ["cuda", "cpu"])
def test_a_judge_goes_where_the_user_says(monkeypatch: pytest.MonkeyPatch, device: str) -> None:
    for free in (BYTES, BYTES - 1):
        spec, told = opened(monkeypatch, Spy("torch"), free, device=device)
        assert (spec.device, told) == (device, [])


def test_a_gguf_judge_takes_what_its_file_takes(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """In float32 that is more than in 16 bits; of a large model in 4 it is less."""
    pytest.importorskip("llama_cpp", reason="needs the llama.cpp backend: pip install 'pudistill[llamacpp]'")
    pytest.importorskip("gguf", reason="needs the llama.cpp backend: pip install 'pudistill[llamacpp]'")
    from pudistill_llamacpp.convert.writer import write_gguf

    file = write_gguf(STUDENT, tmp_path / "student.gguf", dtype="f32").path
    need = file.stat().st_size + BESIDE_BYTES
    assert need > BYTES
    for free, device in ((need, "auto"), (need - 1, "cpu")):
        spec, told = opened(monkeypatch, FileSpy("llamacpp"), free, engine="llamacpp", model=file)
        assert (spec.folder, spec.device, len(told)) == (file, device, device == "cpu")
