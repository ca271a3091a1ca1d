"""Several students as one: the mean of their adapters, its rank, and SFT with students."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from pudistill_cli.models.peft_adapter import CONFIG, WEIGHTS, read_adapter
from pudistill_cli.stages import sft
from pudistill_cli.stages.adapter_average import begun_anew, mean_of
from tests.tiny import Ended, Tiny

Call = Callable[..., Ended]
RANK, IN, OUT = 3, 10, 8
NAME = "base_model.model.layer.lora_{}.weight"
SEVERAL = {"sft": {"students": 3, "epochs": 1}, "prefer": {"rounds": 0}, "export": {"formats": ["adapter"]}}


def written(folder: Path, a: np.ndarray, b: np.ndarray) -> Path:
    folder.mkdir()
    settings = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "r": RANK, "lora_alpha": 6.0, "bias": "none"}
    (folder / CONFIG).write_text(json.dumps(settings | {"target_modules": ["layer"], "fan_in_fan_out": False}))
    save_file({NAME.format("A"): a.astype(np.float32), NAME.format("B"): b.astype(np.float32)}, folder / WEIGHTS)
    return folder


def product(folder: Path) -> np.ndarray:
    (part,) = read_adapter(folder).values()
    return part.scale * part.left @ part.right


@pytest.fixture
def drawn() -> list[tuple[np.ndarray, np.ndarray]]:
    rng = np.random.default_rng(0)
    return [(rng.normal(size=(RANK, IN)), rng.normal(size=(OUT, RANK))) for _ in range(2)]


def test_the_mean_is_that_of_the_products_where_its_rank_is_the_adapter_s(
    tmp_path: Path, drawn: list[tuple[np.ndarray, np.ndarray]]
) -> None:
    (a, b), (_, other) = drawn  # one A for both: the mean of the products has rank 3 again
    students = [written(tmp_path / "1", a, b), written(tmp_path / "2", a, other)]
    assert mean_of(students, tmp_path / "mean") == pytest.approx(1)
    np.testing.assert_allclose(product(tmp_path / "mean"), 2 * (b + other) / 2 @ a, atol=1e-5)
    assert load_file(tmp_path / "mean" / WEIGHTS)[NAME.format("A")].shape == (RANK, IN)


def test_a_mean_of_higher_rank_is_cut_to_its_largest_singular_values(
    tmp_path: Path, drawn: list[tuple[np.ndarray, np.ndarray]]
) -> None:
    students = [written(tmp_path / str(i), a, b) for i, (a, b) in enumerate(drawn)]
    kept = mean_of(students, tmp_path / "mean")
    u, s, v = np.linalg.svd(sum(b @ a for a, b in drawn) / 2)
    np.testing.assert_allclose(product(tmp_path / "mean"), 2 * (u[:, :RANK] * s[:RANK]) @ v[:RANK], atol=1e-5)
    assert kept == pytest.approx((s[:RANK] ** 2).sum() / (s**2).sum())
    assert 0.5 < kept < 0.95


def test_a_new_start_adds_nothing_and_is_another_for_every_student(
    tmp_path: Path, drawn: list[tuple[np.ndarray, np.ndarray]]
) -> None:
    like = written(tmp_path / "like", *drawn[0])
    for name, key in (("a", (0, 1)), ("again", (0, 1)), ("b", (0, 2))):
        begun_anew(like, tmp_path / name, *key)
    assert not product(tmp_path / "a").any()
    found = {n: load_file(tmp_path / n / WEIGHTS)[NAME.format("A")] for n in ("a", "again", "b")}
    np.testing.assert_array_equal(found["a"], found["again"])
    assert np.abs(found["a"] - found["b"]).min() > 0
    assert 0.5 * IN**-0.5 < np.abs(found["a"]).max() <= IN**-0.5


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
        return mean_of(students, final)

    monkeypatch.setattr(sft, "mean_of", mean)
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
    step, trained = sft.train_step, []

    def until_the_second_step_of_the_second(*arguments: Any) -> Any:
        trained.append(1)
        if len(trained) == 4:  # two steps a student
            raise KeyboardInterrupt
        return step(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(sft, "train_step", until_the_second_step_of_the_second)
        assert call(*killed.arguments()).code == 130
    trained.clear()
    run(killed, call)
    left = killed.value("SELECT count(*) FROM metrics WHERE stage = 'sft' AND name = 'loss'")
    assert left == whole.value("SELECT count(*) FROM metrics WHERE stage = 'sft' AND name = 'loss'")
    same = ("adapters/*/*",)
    assert killed.bytes_of(*same) == whole.bytes_of(*same)
