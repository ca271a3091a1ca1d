"""`pudistill doctor` on simulated machines: what it says, at which width, and as JSON."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pudistill_cli.backend_api import registry
from pudistill_cli.commands import doctor
from pudistill_cli.hardware import machine as machine_module
from pudistill_cli.hardware.doctor import STUDENTS, diagnose
from pudistill_cli.hardware.machine import Hardware
from pudistill_cli.hardware.selection import choose
from tests.pudistill_cli.hardware.test_selection import (
    CPU,
    EVERYTHING,
    GTX,
    H100,
    LLAMACPP,
    MAC,
    MLX,
    SMOL,
    TORCH,
    Fake,
    installed,
)


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Any:
    """`machine(hardware, backends)` makes this machine look like that one."""

    def become(hardware: Hardware, backends: dict[str, Any]) -> None:
        monkeypatch.setattr(machine_module, "detect", lambda: hardware)
        monkeypatch.setattr(registry, "backends", lambda: backends)

    return become


@pytest.mark.parametrize("width", [80, 140])
@pytest.mark.parametrize("hardware", [MAC, CPU, H100, GTX, replace(CPU, memory_gib=4.0, free_gib=3.0)])
def test_the_report_fits_the_terminal(
    machine: Any, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, width: int, hardware: Hardware
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    machine(hardware, EVERYTHING)
    doctor.command(as_json=False)
    out = capsys.readouterr().out
    tables = out[: out.index("Picked for")]
    assert max(len(line) for line in tables.splitlines()) <= width
    for text in ("machine", "backends", "backend: auto", *STUDENTS, *EVERYTHING):
        assert text in tables
    assert "…" not in out  # nothing was cut off


def test_what_is_missing_comes_with_its_command(machine: Any, capsys: pytest.CaptureFixture[str]) -> None:
    machine(CPU, installed(TORCH, Fake("llamacpp", "llama-cpp-python is not installed")))
    doctor.command(as_json=False)
    out = capsys.readouterr().out
    assert '    pip install "pudistill[llamacpp]"' in out
    assert "llama-cpp-python is not" in out
    machine(CPU, EVERYTHING)
    doctor.command(as_json=False)
    assert "Nothing is missing" in capsys.readouterr().out


def test_it_works_with_no_backend_at_all(machine: Any, capsys: pytest.CaptureFixture[str]) -> None:
    machine(CPU, {})
    doctor.command(as_json=False)
    out = capsys.readouterr().out
    assert "nothing can be run here" in out
    assert 'pip install "pudistill[torch]"' in out


def test_a_cache_in_the_working_directory_is_one_place(
    machine: Any, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PUDISTILL_CACHE", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    machine(GTX, EVERYTHING)
    doctor.command()
    out = capsys.readouterr().out
    assert "disk, here" in out
    assert "disk, cache" in out


def test_json_has_everything(machine: Any, capsys: pytest.CaptureFixture[str]) -> None:
    machine(GTX, EVERYTHING)
    doctor.command(as_json=True)
    printed = json.loads(capsys.readouterr().out)
    assert printed["hardware"]["cards"] == [{"maker": "nvidia", "name": "GTX 1650", "memory_gib": 4, "free_gib": 3.5}]
    assert [b["name"] for b in printed["backends"]] == ["torch", "mlx", "llamacpp"]
    assert all(gib > 0 for gib in printed["free_disk_gib"].values())
    [smol] = [s for s in printed["students"] if s["student"] == "SmolLM2-135M"]
    assert (smol["engine"], smol["learner"]) == ("torch", "torch")
    assert printed["improvements"] == []


def test_a_student_is_judged_as_a_run_would_be() -> None:
    students = {s.student: s for s in diagnose(CPU, installed(TORCH, MLX, LLAMACPP)).students}
    choice = choose("auto", "auto", EVERYTHING, CPU, replace(SMOL, context=4096))
    smol = students["SmolLM2-135M"]
    assert (smol.engine, smol.learner, smol.suspend) == (choice.engine.name, choice.learner.name, choice.suspend)
    assert students["quickstart, 0.2M"].engine == "torch"
    assert "are free" in (students["Llama-3.1-8B"].problem or "")


def test_versions_are_those_of_the_extra_of_a_backends_name() -> None:
    [torch, other] = diagnose(CPU, installed(TORCH, Fake("somebodys"))).backends
    assert set(torch.packages) == {"torch", "transformers", "peft"}
    assert all(torch.packages.values())
    assert other.packages == {}
