"""SFT with several students: their mean is kept, and a stopped run keeps the finished ones."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pudistill_cli.models.adapter_average import mean_adapter
from pudistill_cli.models.peft_adapter import WEIGHTS, read_adapter
from pudistill_cli.stages import sft, sft_training
from tests.tiny import Ended, Tiny

Call = Callable[..., Ended]
SEVERAL = {"sft": {"students": 3, "epochs": 1}, "prefer": {"rounds": 0}, "export": {"formats": ["adapter"]}}


def run(tiny: Tiny, call: Call) -> None:
    ended = call(*tiny.arguments())
    assert ended.code == 0, ended.err


def test_sft_is_the_mean_of_its_students_the_first_of_which_is_sft_alone(
    tmp_path: Path, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = tmp_path / "kept"

    def mean(students: Sequence[Path], final: Path) -> float:
        for student in students:
            shutil.copytree(student, kept / student.name)
        return mean_adapter(students, final)

    monkeypatch.setattr(sft, "mean_adapter", mean)
    several, alone = (
        Tiny.make(tmp_path / name, **SEVERAL | {"sft": {"students": students}})
        for name, students in (("3", 3), ("1", 1))
    )
    run(several, call)
    run(alone, call)
    assert sorted(p.name for p in kept.iterdir()) == ["sft-1", "sft-2", "sft-3"]
    assert (kept / "sft-1" / WEIGHTS).read_bytes() == (alone.run / "adapters" / "sft" / WEIGHTS).read_bytes()
    parts = [read_adapter(folder) for folder in sorted(kept.iterdir())]
    for module, mixed in read_adapter(several.run / "adapters" / "sft").items():
        every = [p[module].scale * p[module].left @ p[module].right for p in parts]
        mean_, found = sum(every) / 3, mixed.scale * mixed.left @ mixed.right
        assert np.linalg.norm(found - mean_) < 0.9 * np.linalg.norm(mean_)
        assert np.linalg.norm(every[0] - every[1]) > 0
    assert sorted(p.name for p in (several.run / "adapters").iterdir()) == ["sft"]
    steps = several.value("SELECT count(*) FROM metrics WHERE stage = 'sft' AND name = 'loss'")
    assert steps == 3 * alone.value("SELECT count(*) FROM metrics WHERE stage = 'sft' AND name = 'loss'")


def test_a_killed_run_keeps_its_finished_students_and_ends_as_if_it_had_not_been(
    tmp_path: Path, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    killed, whole = (Tiny.make(tmp_path / name, **SEVERAL) for name in ("killed", "whole"))
    run(whole, call)
    step, trained = sft_training.train_step, []

    def until_the_second_step_of_the_second(*arguments: Any) -> Any:
        trained.append(1)
        if len(trained) == 4:  # two steps a student
            raise KeyboardInterrupt
        return step(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(sft_training, "train_step", until_the_second_step_of_the_second)
        assert call(*killed.arguments()).code == 130
    trained.clear()
    run(killed, call)
    left = killed.value("SELECT count(*) FROM metrics WHERE stage = 'sft' AND name = 'loss'")
    assert left == whole.value("SELECT count(*) FROM metrics WHERE stage = 'sft' AND name = 'loss'")
    same = ("adapters/*/*",)
    assert killed.bytes_of(*same) == whole.bytes_of(*same)
