"""Adapters on quantised bases (QLoRA): their loss is that of the dequantised weights, and training lowers it."""

from __future__ import annotations

import shutil
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from pudistill_cli.backend_api.contract import Base, GroupBatch
from pudistill_cli.method.objectives.ldl_grpo import LdlGrpo
from tests.backends.pudistill_mlx.small import (
    SFT,
    base_of,
    equal,
    gradient_of,
    open_learner,
    random_groups,
    save_llama,
)
from tests.backends.random_batches import assert_near

each_base = pytest.mark.parametrize("base", ["8bit", "4bit"])


@pytest.fixture(scope="module")
def student(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_llama(tmp_path_factory.mktemp("student"))


def dequantised(student: Path, base: Base, folder: Path) -> Path:
    """The checkpoint with its blocks' weights as `base` holds them: (q - zero) * scale, in groups of 64."""
    shutil.copytree(student, folder)
    weights = load_file(folder / "model.safetensors")
    for name in [n for n in weights if n.endswith("_proj.weight")]:
        parts = mx.quantize(mx.array(weights[name]), group_size=64, bits=int(base.removesuffix("bit")))
        weights[name] = np.array(mx.dequantize(*parts, group_size=64, bits=int(base.removesuffix("bit"))))
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


@each_base
def test_loss_and_gradient_are_those_of_the_dequantised_weights(student: Path, tmp_path: Path, base: Base) -> None:
    quantised, plain = open_learner(student, base=base), open_learner(dequantised(student, base, tmp_path / "plain"))
    unquantised = open_learner(student)
    for batch in (SFT, GroupBatch(LdlGrpo(), random_groups(plain))):
        (metrics, gradient), (expected, reference) = gradient_of(quantised, batch), gradient_of(plain, batch)
        assert metrics == pytest.approx(expected, rel=1e-5, abs=1e-6)
        assert_near(reference, gradient, 1e-4)
        assert metrics["loss"] != pytest.approx(gradient_of(unquantised, batch)[0]["loss"], rel=1e-4)


@each_base
def test_training_lowers_the_loss_and_leaves_the_base(student: Path, base: Base) -> None:
    learner = open_learner(student, base=base)
    before = base_of(learner)
    losses = [learner.step(SFT, 1e-2)["loss"] for _ in range(20)]
    assert losses[-1] < 0.5 * losses[0]
    assert {array.dtype for array in learner._policy.values()} == {mx.float32}
    assert equal(base_of(learner), before)
