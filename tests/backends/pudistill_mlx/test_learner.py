"""Steps, snapshots, and what a learner refuses."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest

from pudistill_cli.backend_api.contract import GroupBatch, LoraSpec, OptimizerSpec, Row, SftBatch
from pudistill_cli.errors import DataError, OutOfMemory, TrainingError
from pudistill_cli.method.objectives.ldl_grpo import LdlGrpo
from pudistill_cli.types import Continuations
from pudistill_mlx import backend
from pudistill_mlx.learner import MlxLearner
from pudistill_mlx.optimizer import Optimizer
from tests.backends.pudistill_mlx.small import (
    SFT,
    STOP,
    base_of,
    equal,
    fresh_learner,
    gradient_of,
    open_learner,
    policy_of,
    random_groups,
    save_llama,
    spec_of,
)


def test_training_lowers_the_loss_and_reports() -> None:
    learner = open_learner()
    metrics = [learner.step(SFT, 1e-2) for _ in range(15)]
    assert metrics[-1]["loss"] < 0.5 * metrics[0]["loss"]
    assert metrics[0].keys() == {"loss", "grad_norm", "tokens"}
    assert metrics[0]["tokens"] == 9
    grouped = learner.step(GroupBatch(LdlGrpo(), random_groups(learner)), 1e-3)
    assert grouped.keys() == {"loss", "grad_norm", "tokens", "group", "kl", "nll", "clipped"}


def test_a_fresh_adapter_changes_nothing_and_is_seeded_layer_by_layer() -> None:
    """A is uniform in +-1/sqrt(in), so that its variance is 1/(3 in); its numbers depend on seed and name alone."""
    one = policy_of(fresh_learner(lora=LoraSpec(r=64, alpha=8.0)))
    assert equal(one, policy_of(fresh_learner(lora=LoraSpec(r=64, alpha=8.0))))
    assert not equal(one, policy_of(fresh_learner(lora=LoraSpec(r=64, alpha=8.0, seed=1))))
    shapes = fresh_learner().model.shapes
    assert {name[:-2] for name in one} == shapes.keys()
    for name, (rows, columns) in shapes.items():
        a = one[f"{name}.a"]
        assert a.shape == (64, columns)
        assert np.abs(a).max() <= columns**-0.5
        assert a.std() == pytest.approx((3 * columns) ** -0.5, rel=0.05)
        assert one[f"{name}.b"].shape == (rows, 64)
        assert not one[f"{name}.b"].any()
    assert not np.array_equal(one["model.layers.0.mlp.up_proj.a"], one["model.layers.1.mlp.up_proj.a"])


def test_a_layers_first_numbers_do_not_depend_on_how_many_layers_there_are(tmp_path: Path) -> None:
    shallow, deep = (policy_of(fresh_learner(save_llama(tmp_path / str(n), layers=n))) for n in (1, 3))
    assert shallow.keys() < deep.keys()
    assert equal(shallow, {name: deep[name] for name in shallow})


def test_an_engine_of_the_same_spec_lends_its_weights_and_its_random_numbers_are_left_alone() -> None:
    engine = backend.open(spec_of())
    mx.random.seed(3)
    learner = backend.learn(spec_of(), LoraSpec(r=4, alpha=8.0), OptimizerSpec(), engine)
    drawn = mx.random.uniform(shape=(4,))
    assert learner.model is engine.model
    mx.random.seed(3)
    assert bool((drawn == mx.random.uniform(shape=(4,))).all())


def test_no_step_changes_the_base() -> None:
    learner = open_learner()
    before = base_of(learner)
    learner.step(SFT, 1e-1)
    learner.step(GroupBatch(LdlGrpo(), random_groups(learner)), 1e-1)
    assert equal(base_of(learner), before)


def test_the_first_step_of_adam_is_the_learning_rate() -> None:
    """Bias-corrected moments make the first update lr * sign(gradient) where the gradient is far above eps."""
    learner = open_learner()
    before = policy_of(learner)
    learner.step(SFT, 1e-3)
    change = np.concatenate([np.abs(array - before[name]).ravel() for name, array in policy_of(learner).items()])
    assert np.median(change) == pytest.approx(1e-3, rel=1e-2)
    assert change.max() < 1.001e-3


def test_a_large_gradient_is_clipped_to_the_norm() -> None:
    """The moments after one update tell the gradient that went in: m = (1 - beta1) g."""
    optimizer = Optimizer(OptimizerSpec(clip_norm=1.0))
    gradient = {"x.a": mx.array([6.0, 0.0]), "x.b": mx.array([8.0])}
    optimizer.update({name: mx.zeros_like(g) for name, g in gradient.items()}, gradient, 10.0, 1e-3)
    moments = optimizer.moments()
    np.testing.assert_allclose(np.array(moments["x.a.m"]), [0.06, 0.0], rtol=1e-5)
    np.testing.assert_allclose(np.array(moments["x.b.m"]), [0.08], rtol=1e-5)


def test_what_is_not_finite_stops_the_step_and_leaves_no_trace() -> None:
    learner, other = open_learner(), open_learner()
    learner.step(SFT, 1e-2)
    other.step(SFT, 1e-2)
    groups = tuple(
        replace(g, reference=tuple(r * np.float32("nan") for r in g.reference)) for g in random_groups(learner)
    )
    before = policy_of(learner)
    for budget in (16384, 20):
        learner.model.spec = replace(learner.model.spec, token_budget=budget)
        with pytest.raises(TrainingError, match="not finite"):
            learner.step(GroupBatch(LdlGrpo(), groups), 1e-2)
        assert equal(policy_of(learner), before)
    learner.model.spec = other.model.spec
    assert learner.step(SFT, 1e-2) == other.step(SFT, 1e-2)
    assert equal(policy_of(learner), policy_of(other))


# --- too little memory ---


METAL = "[METAL] Command buffer execution failed: (00000008:kIOGPUCommandBufferCallbackErrorOutOfMemory)."


@pytest.mark.parametrize("evaluation", [0, 1])
def test_too_little_memory_says_what_helps_and_leaves_no_trace(
    monkeypatch: pytest.MonkeyPatch, evaluation: int
) -> None:
    """A step evaluates its one micro-batch, then its update."""
    learner, other = open_learner(), open_learner()
    for each in (learner, other):
        each.step(SFT, 1e-2)
    before, evaluate, done = policy_of(learner), mx.eval, iter(range(9))

    def fail(*arrays: object) -> None:
        if next(done) == evaluation:
            raise RuntimeError(METAL)
        evaluate(*arrays)

    with monkeypatch.context() as patch:
        patch.setattr(mx, "eval", fail)
        with pytest.raises(OutOfMemory, match="not enough memory") as caught:
            learner.step(SFT, 1e-2)
    assert caught.value.hint == "Close other programs, or take a smaller model."
    assert equal(policy_of(learner), before)
    assert learner.step(SFT, 1e-2) == other.step(SFT, 1e-2)
    assert equal(policy_of(learner), policy_of(other))


def test_another_error_is_not_taken_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    learner = open_learner()

    def fail(*_: object) -> None:
        raise RuntimeError("[matmul] Last dimension does not match")

    monkeypatch.setattr(learner, "_gradient", fail)
    with pytest.raises(RuntimeError, match="Last dimension"):
        learner.step(SFT, 1e-2)


def test_the_budget_is_halved_down_to_one_row() -> None:
    """Rows of 3 + 3, 2 + 2 and 4 + 4 tokens: with 8 in a pass each is alone, and less would not help."""
    learner = open_learner(token_budget=32)
    whole = gradient_of(learner, SFT)
    assert [learner.halve_budget(), learner.halve_budget()] == [16, 8]
    assert gradient_of(learner, SFT)[0] == pytest.approx(whole[0], rel=1e-6)
    learner.step(SFT, 1e-3)
    assert learner.halve_budget() is None
    learner.step(SftBatch((Row((5,), (6, STOP)),)), 1e-3)
    assert learner.halve_budget() == 4


# --- snapshots ---


def test_a_snapshot_is_peft_and_names_no_machine(tmp_path: Path) -> None:
    learner = open_learner()
    assert learner.snapshot(tmp_path / "a") == tmp_path / "a"
    learner.snapshot(tmp_path / "b")
    files = {f.name: f.read_bytes() for f in (tmp_path / "a").iterdir()}
    assert files.keys() == {"adapter_config.json", "adapter_model.safetensors"}
    assert files == {f.name: f.read_bytes() for f in (tmp_path / "b").iterdir()}
    config = json.loads(files["adapter_config.json"])
    assert config["base_model_name_or_path"] is None
    assert (config["r"], config["lora_alpha"], config["peft_type"]) == (4, 8, "LORA")
    assert config["target_modules"] == [
        "down_proj", "gate_proj", "k_proj", "o_proj", "q_proj", "up_proj", "v_proj",
    ]  # fmt: skip


def test_a_snapshot_replaces_an_older_one_and_leaves_nothing_else(tmp_path: Path) -> None:
    learner = open_learner()
    learner.snapshot(tmp_path / "a")
    old = (tmp_path / "a" / "adapter_model.safetensors").read_bytes()
    learner.step(SFT, 1e-2)
    learner.snapshot(tmp_path / "a")
    assert (tmp_path / "a" / "adapter_model.safetensors").read_bytes() != old
    assert [p.name for p in tmp_path.iterdir()] == ["a"]


def test_a_snapshot_is_frozen(tmp_path: Path) -> None:
    """The judge: what it scores after a step is what it scored before, and not what the policy would."""
    learner = open_learner()
    judge = learner.load_adapter(learner.snapshot(tmp_path / "judge"))
    before = [x.copy() for x in scores(learner, judge)]
    learner.step(SFT, 1e-2)
    assert all(np.array_equal(x, y) for x, y in zip(before, scores(learner, judge), strict=True))
    after = learner.load_adapter(learner.snapshot(tmp_path / "policy"))
    assert all(np.abs(x - y).max() > 1e-3 for x, y in zip(before, scores(learner, after), strict=True))


def scores(learner: MlxLearner, adapter: str) -> tuple[np.ndarray, ...]:
    ((_, scored),) = learner.logprobs([Continuations((3, 4, 5), ((6, 7, STOP), (8, STOP)))], adapter)
    return scored


def test_another_rank_or_scale_is_refused(tmp_path: Path) -> None:
    adapter = open_learner().snapshot(tmp_path / "a")
    for lora in (LoraSpec(r=8, alpha=8.0), LoraSpec(r=4, alpha=16.0)):
        with pytest.raises(DataError, match="rank 4 and alpha 8"):
            fresh_learner(lora=lora).restore(adapter)
