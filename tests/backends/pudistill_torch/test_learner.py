"""Steps, and the state that makes them repeatable to the bit."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from pudistill_cli.backend_api.contract import GroupBatch, LoraSpec, OptimizerSpec, Row, SftBatch
from pudistill_cli.errors import DataError, TrainingError
from pudistill_cli.method.objectives.ldl_grpo import LdlGrpo
from pudistill_torch import backend
from pudistill_torch.learner import TorchLearner
from pudistill_torch.model import POLICY
from tests.backends.pudistill_torch.small import open_engine, open_learner, random_groups, spec_of

SFT = SftBatch((Row((3, 4, 5), (6, 7, 2)), Row((8, 9), (10, 2)), Row((11, 12, 13, 14), (15, 16, 17, 2))))


def some_steps(learner: TorchLearner, count: int) -> list[dict[str, float]]:
    groups = GroupBatch(LdlGrpo(), random_groups(learner))
    return [learner.step(batch, 1e-2) for _ in range(count) for batch in (SFT, groups)]


def weights(learner: TorchLearner) -> dict[str, torch.Tensor]:
    return {name: weight.clone() for name, weight in learner.model.weights(POLICY).items()}


def equal(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_training_lowers_the_loss_and_reports(student: Path) -> None:
    learner = open_learner(student)
    metrics = [learner.step(SFT, 2e-2) for _ in range(30)]
    assert metrics[-1]["loss"] < 0.7 * metrics[0]["loss"]
    assert metrics[0].keys() == {"loss", "grad_norm", "tokens"}
    assert metrics[0]["tokens"] == 9
    grouped = learner.step(GroupBatch(LdlGrpo(), random_groups(learner)), 1e-3)
    assert {"loss", "grad_norm", "tokens", "group", "kl", "nll", "clipped"} == grouped.keys()


def test_a_fresh_adapter_changes_nothing_and_is_seeded(student: Path) -> None:
    def fresh(seed: int) -> TorchLearner:
        return backend.learn(spec_of(student), LoraSpec(r=4, alpha=8, seed=seed), OptimizerSpec(), None)

    one, state = fresh(0), torch.get_rng_state()
    assert equal(weights(one), weights(fresh(0)))
    assert not equal(weights(one), weights(fresh(1)))
    assert torch.equal(state, torch.get_rng_state())  # nobody else's random numbers are touched
    assert all(not w.any() for name, w in weights(one).items() if "lora_B" in name)
    engine = open_engine(student)
    backend.learn(spec_of(student), LoraSpec(r=4, alpha=8), OptimizerSpec(), engine)
    assert equal(weights(one), {name: w.clone() for name, w in engine.model.weights(POLICY).items()})


def test_deterministic(student: Path) -> None:
    one, other = open_learner(student), open_learner(student)
    assert some_steps(one, 3) == some_steps(other, 3)
    assert equal(weights(one), weights(other))


def test_restored_and_uninterrupted_are_equal_to_the_bit(student: Path, tmp_path: Path) -> None:
    whole = open_learner(student)
    some_steps(whole, 2)
    whole.save(tmp_path / "state")
    expected = some_steps(whole, 2)
    resumed = open_learner(student, seed=9)
    resumed.restore(tmp_path / "state")
    assert some_steps(resumed, 2) == expected
    assert equal(weights(resumed), weights(whole))


def test_a_plain_adapter_starts_the_optimizer_anew(student: Path, tmp_path: Path) -> None:
    learner = open_learner(student)
    some_steps(learner, 2)
    learner.snapshot(tmp_path / "adapter")
    kept = weights(learner)
    learner.restore(tmp_path / "adapter")
    assert equal(weights(learner), kept)
    anew = open_learner(student, seed=9)
    anew.restore(tmp_path / "adapter")
    assert some_steps(learner, 1) == some_steps(anew, 1)
    assert equal(weights(learner), weights(anew))


def test_a_snapshot_is_peft_and_names_no_machine(student: Path, tmp_path: Path) -> None:
    learner = open_learner(student)
    assert learner.snapshot(tmp_path / "a") == tmp_path / "a"
    learner.snapshot(tmp_path / "b")
    files = {f.name: f.read_bytes() for f in (tmp_path / "a").iterdir()}
    assert files.keys() == {"adapter_config.json", "adapter_model.safetensors"}
    assert files == {f.name: f.read_bytes() for f in (tmp_path / "b").iterdir()}
    config = json.loads(files["adapter_config.json"])
    assert config["base_model_name_or_path"] is None
    assert str(student).encode() not in b"".join(files.values())
    assert (config["r"], config["lora_alpha"], config["peft_type"]) == (4, 8, "LORA")
    assert config["target_modules"] == sorted(config["target_modules"])


def test_a_snapshot_replaces_an_older_one_and_leaves_nothing_else(student: Path, tmp_path: Path) -> None:
    learner = open_learner(student)
    learner.snapshot(tmp_path / "a")
    old = (tmp_path / "a" / "adapter_model.safetensors").read_bytes()
    learner.step(SFT, 1e-2)
    learner.snapshot(tmp_path / "a")
    assert (tmp_path / "a" / "adapter_model.safetensors").read_bytes() != old
    assert [p.name for p in tmp_path.iterdir()] == ["a"]


def test_another_rank_is_refused(student: Path, adapter: Path) -> None:
    learner = backend.learn(spec_of(student), LoraSpec(r=8, alpha=8), OptimizerSpec(), None)
    with pytest.raises(DataError, match="rank 4 and alpha 8"):
        learner.restore(adapter)


def test_a_broken_state_is_refused(student: Path, tmp_path: Path) -> None:
    learner = open_learner(student)
    learner.step(SFT, 1e-2)
    learner.save(tmp_path / "state")
    (tmp_path / "state" / "training_state.safetensors").write_bytes(b"")
    with pytest.raises(DataError, match="no whole training state"):
        learner.restore(tmp_path / "state")


def test_what_is_not_finite_stops_the_step_and_leaves_the_adapter(student: Path) -> None:
    learner = open_learner(student)
    learner.step(SFT, 1e-2)
    groups = random_groups(learner)
    broken = [type(g)(g.rows, tuple(r * float("nan") for r in g.reference), g.behaviour, g.targets) for g in groups]
    before = weights(learner)
    with pytest.raises(TrainingError, match="not finite"):
        learner.step(GroupBatch(LdlGrpo(), tuple(broken)), 1e-2)
    assert equal(weights(learner), before)
    other = open_learner(student)
    other.step(SFT, 1e-2)
    assert learner.step(SFT, 1e-2) == other.step(SFT, 1e-2)  # no trace in gradients or moments either


def test_the_first_step_of_adam_is_the_learning_rate(student: Path) -> None:
    """Bias-corrected moments make the first update lr * sign(gradient) where the gradient is far above eps."""
    learner = open_learner(student)
    before = weights(learner)
    learner.step(SFT, 1e-3)
    change = torch.cat([(weights(learner)[name] - w).abs().ravel() for name, w in before.items()])
    assert float(change.median()) == pytest.approx(1e-3, rel=1e-2)
    assert float(change.max()) < 1.001e-3


@pytest.mark.parametrize(
    "error",
    [torch.OutOfMemoryError("CUDA out of memory"), RuntimeError("DefaultCPUAllocator: can't allocate memory")],
)
def test_too_little_memory_says_what_helps(student: Path, monkeypatch: pytest.MonkeyPatch, error: RuntimeError) -> None:
    def fail(*_: object) -> None:
        raise error

    learner = open_learner(student)
    monkeypatch.setattr("pudistill_torch.learner.sft_gradient", fail)
    with pytest.raises(TrainingError, match="not enough memory") as caught:
        learner.step(SFT, 1e-2)
    assert caught.value.hint == "Close other programs, or take a smaller model."


def test_the_adapter_is_float32_on_a_bf16_base(student: Path) -> None:
    learner = open_learner(student, dtype="bfloat16")
    assert {w.dtype for w in weights(learner).values()} == {torch.float32}
    losses = [learner.step(SFT, 2e-2)["loss"] for _ in range(20)]
    assert losses[-1] < 0.8 * losses[0]
