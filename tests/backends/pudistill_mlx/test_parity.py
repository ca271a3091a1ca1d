"""MLX and torch on the same student, batch and adapter, and both against torch in float64."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch", reason="needs torch, the other implementation")

from pudistill_cli.backend_api.contract import Batch, GroupBatch, OptimizerSpec, SftBatch
from pudistill_cli.method.objectives.dpo import Dpo
from pudistill_cli.method.objectives.grpo import Grpo
from pudistill_cli.method.objectives.ldl_grpo import LdlGrpo
from pudistill_cli.method.objectives.pu_dpo import PuDpo
from pudistill_cli.method.objectives.rft import Rft
from pudistill_cli.method.objectives.spin import Spin
from pudistill_mlx.learner import MlxLearner
from pudistill_torch import backend as torch_backend
from pudistill_torch.gradients import group_gradient, sft_gradient
from pudistill_torch.learner import TorchLearner
from pudistill_torch.model import POLICY
from tests.backends.pudistill_mlx.small import (
    LORA,
    SFT,
    Arrays,
    gradient_of,
    open_learner,
    policy_of,
    random_groups,
    spec_of,
)
from tests.backends.random_batches import assert_near

OBJECTIVES = [Dpo(), Grpo(anchor_nll=0.1), LdlGrpo(), PuDpo(), Rft(), Spin()]
STEPS = 10


@pytest.fixture
def mlx() -> Iterator[MlxLearner]:
    learner = open_learner()
    yield learner
    learner.close()


def torch_like(learner: MlxLearner, folder: Path) -> TorchLearner:
    """torch's learner with the same adapter, through PEFT's format."""
    other = torch_backend.learn(spec_of(threads=1), LORA, OptimizerSpec(), None)
    other.restore(learner.snapshot(folder / "adapter"))
    return other


def named(tensors: dict[str, Any]) -> Arrays:
    """torch's tensors by MLX's names."""
    arrays = {}
    for name, tensor in tensors.items():
        key = name.removeprefix("base_model.model.").replace(".lora_A", ".a").replace(".lora_B", ".b")
        arrays[key.removesuffix(".weight").replace(f".{POLICY}", "")] = tensor.detach().numpy().copy()
    return arrays


def torch_gradient(learner: TorchLearner, batch: Batch) -> tuple[dict[str, float], Arrays]:
    gradient = group_gradient if isinstance(batch, GroupBatch) else sft_gradient
    metrics = gradient(learner.model, batch)  # type: ignore[arg-type]
    trained = {n: p for n, p in learner.model._causal.named_parameters() if p.requires_grad}
    ours = named({name: p.grad for name, p in trained.items()})
    for parameter in trained.values():
        parameter.grad = None
    return metrics, ours


def batches(learner: Any) -> dict[str, Batch]:
    groups = random_groups(learner)
    views = ((9, 3, 4, 5, 6, 7), (), (5, 5, 8))
    soft = SftBatch(tuple(replace(row, view=view) for row, view in zip(SFT.rows, views, strict=True)), soft=0.4)
    return {"sft": SFT, "sft-soft": soft} | {o.name: GroupBatch(o, groups) for o in OBJECTIVES}


@pytest.mark.parametrize("name", ["sft", "sft-soft", *(o.name for o in OBJECTIVES)])
def test_loss_and_gradient_equal_torchs_and_the_float64_reference(mlx: MlxLearner, tmp_path: Path, name: str) -> None:
    """The behaviour policy is the bare base, so that ratios, clips and penalties are all away from 1 and 0."""
    other, exact = torch_like(mlx, tmp_path), torch_like(mlx, tmp_path)
    batch = batches(other)[name]
    exact.model._causal.double()
    metrics, gradient = gradient_of(mlx, batch)
    for learner in (other, exact):
        their_metrics, their_gradient = torch_gradient(learner, batch)
        assert metrics == pytest.approx(their_metrics, rel=1e-4, abs=1e-6)
        assert_near(their_gradient, gradient, 1e-4)


MOVED = 2e-3
"""How far two adapters may be apart after ten steps, as a share of how far they moved; measured: 2.0e-4 at most."""


@pytest.mark.parametrize("name", ["sft", "sft-soft", *(o.name for o in OBJECTIVES)])
def test_ten_steps_end_at_the_same_adapter(mlx: MlxLearner, tmp_path: Path, name: str) -> None:
    other = torch_like(mlx, tmp_path)
    batch, before = batches(other)[name], policy_of(mlx)
    losses = [(mlx.step(batch, 3e-3)["loss"], other.step(batch, 3e-3)["loss"]) for _ in range(STEPS)]
    for ours, theirs in losses:
        assert ours == pytest.approx(theirs, rel=1e-4, abs=1e-6)
    ours, theirs = policy_of(mlx), named(other.model.weights(POLICY))
    assert ours.keys() == theirs.keys()
    for array in ours:
        moved = np.linalg.norm(ours[array] - before[array])
        assert np.linalg.norm(ours[array] - theirs[array]) < MOVED * moved, array
