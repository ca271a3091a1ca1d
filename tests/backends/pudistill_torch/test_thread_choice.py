"""How many threads train: what is tried, and that the choice is the measurement's."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from pudistill_cli.backend_api import cpu
from pudistill_cli.backend_api.contract import Measures, ModelSpec
from pudistill_torch import backend, placement, thread_choice
from pudistill_torch.thread_choice import fastest_threads
from tests.tiny import STUDENT

SPEC = ModelSpec(STUDENT, (1,), 128, device="cpu", dtype="float32")
Trials = Mapping[int, Callable[[], object]]


@pytest.fixture(autouse=True)
def four_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu, "cores", lambda: 4)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)


def seconds(monkeypatch: pytest.MonkeyPatch, times: Mapping[int, float]) -> list[tuple[int, ...]]:
    """Let trials have taken these; returns what was tried."""
    tried: list[tuple[int, ...]] = []

    def injected(folder: Path, placed: placement.Placement, counts: tuple[int, ...]) -> int:
        tried.append(counts)
        return fastest_threads(folder, placed, counts, lambda trials: {n: times[n] for n in trials})

    monkeypatch.setattr(thread_choice, "fastest_threads", injected)
    monkeypatch.setattr(placement, "SMALL", 1000)
    return tried


@pytest.mark.parametrize(
    ("times", "expected"),
    [({1: 1.0, 2: 0.6, 4: 0.35}, "4"), ({1: 1.0, 2: 0.95, 4: 9.0}, "1"), ({1: 1.0, 2: 0.6, 4: 0.58}, "2")],
)
def test_the_measured_number_is_taken(monkeypatch: pytest.MonkeyPatch, times: dict[int, float], expected: str) -> None:
    tried = seconds(monkeypatch, times)
    assert isinstance(backend, Measures)
    assert backend.measured(SPEC, None) == {"device": "cpu", "dtype": "float32", "threads": expected}
    assert tried == [(1, 2, 4)]


def test_the_users_number_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    tried = seconds(monkeypatch, {})
    assert backend.measured(replace(SPEC, threads=3), None)["threads"] == "3"
    assert tried == []


def test_a_small_student_has_one_thread_and_nothing_is_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    tried = seconds(monkeypatch, {})
    monkeypatch.setattr(placement, "SMALL", 1 << 30)
    assert backend.measured(SPEC, None)["threads"] == backend.describe(SPEC)["threads"] == "1"
    assert tried == []


def test_a_trial_multiplies_the_first_blocks_matrices_on_each_number_of_threads() -> None:
    before = torch.get_num_threads()
    counted: list[int] = []

    def once(trials: Trials) -> dict[int, float]:
        for trial in trials.values():
            trial()
            counted.append(torch.get_num_threads())
        return {n: float(n) for n in trials}

    assert fastest_threads(STUDENT, placement.place(SPEC), (1, 2), once) == 1
    assert (counted, torch.get_num_threads()) == ([1, 2], before)
    shapes = thread_choice._shapes(STUDENT)
    # Four heads of 20 over a width of 80; one of the seven is not tried twice.
    assert sorted(shapes) == sorted([(80, 80)] * 4 + [(192, 80)] * 2 + [(80, 192)])


def test_large_matrices_are_cut_and_few_are_tried(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    wide = {f"model.layers.0.mlp.{n}.weight": torch.zeros(3000, 2100, dtype=torch.bfloat16) for n in range(4)}
    save_file(wide | {"model.layers.0.norm.weight": torch.ones(3)}, tmp_path / "model.safetensors")
    assert thread_choice._shapes(tmp_path) == [(2048, 2048)] * 2  # 8 million entries
    save_file({"weight": torch.zeros(2, 2)}, tmp_path / "model.safetensors")
    assert thread_choice._shapes(tmp_path) == [(2048, 2048)]
