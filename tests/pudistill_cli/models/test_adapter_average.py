"""The mean of adapters and its rank, and an adapter that adds nothing yet."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from pudistill_cli.models.adapter_average import fresh_adapter, mean_adapter
from pudistill_cli.models.peft_adapter import CONFIG, WEIGHTS, read_adapter

RANK, IN, OUT = 3, 10, 8
NAME = "base_model.model.layer.lora_{}.weight"


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
    assert mean_adapter(students, tmp_path / "mean") == pytest.approx(1)
    np.testing.assert_allclose(product(tmp_path / "mean"), 2 * (b + other) / 2 @ a, atol=1e-5)
    assert load_file(tmp_path / "mean" / WEIGHTS)[NAME.format("A")].shape == (RANK, IN)


def test_a_mean_of_higher_rank_is_cut_to_its_largest_singular_values(
    tmp_path: Path, drawn: list[tuple[np.ndarray, np.ndarray]]
) -> None:
    students = [written(tmp_path / str(i), a, b) for i, (a, b) in enumerate(drawn)]
    kept = mean_adapter(students, tmp_path / "mean")
    u, s, v = np.linalg.svd(sum(b @ a for a, b in drawn) / 2)
    np.testing.assert_allclose(product(tmp_path / "mean"), 2 * (u[:, :RANK] * s[:RANK]) @ v[:RANK], atol=1e-5)
    assert kept == pytest.approx((s[:RANK] ** 2).sum() / (s**2).sum())
    assert 0.5 < kept < 0.95


def test_a_new_start_adds_nothing_and_is_another_for_every_student(
    tmp_path: Path, drawn: list[tuple[np.ndarray, np.ndarray]]
) -> None:
    like = written(tmp_path / "like", *drawn[0])
    for name, key in (("a", (0, 1)), ("again", (0, 1)), ("b", (0, 2))):
        fresh_adapter(like, tmp_path / name, *key)
    assert not product(tmp_path / "a").any()
    found = {n: load_file(tmp_path / n / WEIGHTS)[NAME.format("A")] for n in ("a", "again", "b")}
    np.testing.assert_array_equal(found["a"], found["again"])
    assert np.abs(found["a"] - found["b"]).min() > 0
    assert 0.5 * IN**-0.5 < np.abs(found["a"]).max() <= IN**-0.5
