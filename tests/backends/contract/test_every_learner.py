"""What every backend's learner promises (contract.Learner), held against the float64 reference that shares no code."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from pudistill_cli.backend_api.contract import (
    Backend,
    GroupBatch,
    Learner,
    LoraSpec,
    ModelSpec,
    OptimizerSpec,
    Row,
    SftBatch,
    TrainGroup,
)
from pudistill_cli.errors import DataError, TrainingError
from pudistill_cli.method.batch import stack, step_constants
from pudistill_cli.method.objectives import GroupArrays, Objective
from pudistill_cli.method.objectives.ldl_grpo import LdlGrpo
from pudistill_cli.method.objectives.registry import OBJECTIVES
from pudistill_cli.method.preferences import Targets
from pudistill_cli.types import Continuations
from tests.backends.contract.reference import Reference
from tests.backends.contract.running import Placed, placed, running
from tests.pudistill_cli.method.outside import NegativesFollow
from tests.tiny import STUDENT

LEARNERS, ENGINES = ("torch", "torch:cuda", "mlx"), ("torch", "mlx", "llamacpp")
LORA = LoraSpec(r=4, alpha=8.0)
SFT = SftBatch((Row((3, 4, 5), (6, 7, 1)), Row((8, 9), (10, 1)), Row((11, 12, 13, 14), (15, 16, 17, 1))))
SOFT = SftBatch(
    (replace(SFT.rows[0], view=(*SFT.rows[2].prompt, 3, 4, 5)), replace(SFT.rows[1], view=(7, 7, 8, 9)), SFT.rows[2]),
    soft=0.3,
)
"""Two rows with a view, of two lengths, and one without."""
Open = Callable[..., Learner]


@pytest.fixture(scope="module", params=LEARNERS)
def place(request: pytest.FixtureRequest) -> Placed:
    return placed(request.param)


@pytest.fixture(scope="module")
def learns(place: Placed) -> Backend:
    return place.backend


@pytest.fixture
def new(learns: Backend, spec: ModelSpec) -> Iterator[Open]:
    """A learner as a run begins with; all are closed at the end of the test."""
    opened: list[Learner] = []

    def learner(lora: LoraSpec = LORA, **changes: int) -> Learner:
        threads = spec.threads if learns.name == "torch" else None
        opened.append(learns.learn(replace(spec, threads=threads, **changes), lora, OptimizerSpec(), None))
        return opened[-1]

    yield learner
    for each in opened:
        each.close()


@pytest.fixture
def restored(new: Open, adapter: Path) -> Open:
    """A learner with an adapter that changes every distribution."""

    def learner(**changes: int) -> Learner:
        opened = new(**changes)
        opened.restore(adapter)
        return opened

    return learner


def some_groups(reference: Reference) -> tuple[TrainGroup, ...]:
    """Two groups whose last row is the anchor; the sampling policy is `reference`, the reference policy 0.1 below."""
    rng = np.random.default_rng(0)
    made: list[TrainGroup] = []
    for size in (3, 2):
        prompt = tuple(int(t) for t in rng.integers(3, 768, 6))
        answers = [(*(int(t) for t in rng.integers(3, 768, rng.integers(1, 7))), 1) for _ in range(size)]
        scored = tuple(reference.of_answer(prompt, a).astype(np.float32) for a in answers)
        anchor = np.eye(size)[-1]
        label, pairs = rng.dirichlet(np.ones(size)), (anchor - np.eye(size)[0])[None]
        targets = Targets(
            member=np.ones(size),
            anchor=anchor,
            slots=np.ones(size),
            label=label,
            advantage=rng.normal(size=size),
            posterior=np.linspace(0.2, 1, size),
            pairs=pairs,
            pair_weight=np.ones(1),
            pair_smoothing=np.array([0.1]),
        )
        rows = tuple(Row(prompt, a) for a in answers)
        made.append(TrainGroup(rows, tuple(x - np.float32(0.1) for x in scored), scored, targets))
    return tuple(made)


def with_views(groups: tuple[TrainGroup, ...]) -> tuple[TrainGroup, ...]:
    """The anchor's tokens before the prompt's, so that views are longer and of another length each."""
    return tuple(replace(g, view=(*g.rows[-1].completion, *g.rows[0].prompt)) for g in groups)


def divergences(groups: tuple[TrainGroup, ...], policy: Reference, judge: Reference) -> np.ndarray:
    """(G, M, T) KL(policy || judge) over the whole vocabulary, the judge behind the view."""
    padded = np.zeros(stack(groups, step_constants(groups)).mask.shape)
    for g, group in enumerate(groups):
        for m, row in enumerate(group.rows):
            p, q = (
                model.logprobs(prefix + row.completion)[len(prefix) - 1 : -1]
                for model, prefix in ((policy, row.prompt), (judge, group.view))
            )
            padded[g, m, : len(row.completion)] = (np.exp(p) * (p - q)).sum(-1)
    return padded


def loss_of(
    objective: Objective, groups: tuple[TrainGroup, ...], policy: Reference, judge: Reference
) -> tuple[float, dict[str, float]]:
    """The objective in float64 NumPy on the reference's log-probs and divergences."""
    arrays = stack(groups, step_constants(groups), np.float64)
    if objective.distils:
        arrays = replace(arrays, divergence=divergences(groups, policy, judge))
    logp = np.zeros(arrays.mask.shape)
    for g, group in enumerate(groups):
        for m, row in enumerate(group.rows):
            logp[g, m, : len(row.completion)] = policy.of_answer(row.prompt, row.completion)
    loss, metrics = objective.loss(np, logp, arrays)
    return float(loss), {name: float(value) for name, value in metrics.items()}


def weights_of(learner: Learner, folder: Path) -> dict[str, np.ndarray]:
    return load_file(learner.snapshot(folder) / "adapter_model.safetensors")


def same(one: dict[str, np.ndarray], other: dict[str, np.ndarray]) -> bool:
    return one.keys() == other.keys() and all(np.array_equal(one[name], other[name]) for name in one)


# --- steps ---


def test_sft_is_the_references_loss_and_falls(restored: Open, adapter: Path) -> None:
    """The mean over answer tokens, the end of turn among them, each with its prompt in view."""
    reference, learner = Reference(STUDENT, adapter), restored()
    logp = np.concatenate([reference.of_answer(row.prompt, row.completion) for row in SFT.rows])
    metrics = [learner.step(SFT, 1e-2) for _ in range(15)]
    assert metrics[0]["loss"] == pytest.approx(-logp.mean(), rel=1e-4)
    assert metrics[0]["tokens"] == 9
    assert metrics[0]["grad_norm"] > 0
    assert metrics[-1]["loss"] < 0.5 * metrics[0]["loss"]


def soft_losses(policy: Reference, base: Reference) -> np.ndarray:
    """(N,) of SOFT's tokens, over whole distributions."""
    losses: list[np.ndarray] = []
    for row in SOFT.rows:
        own = -policy.of_answer(row.prompt, row.completion)
        if row.view:
            p, q = (
                model.logprobs(prefix + row.completion)[len(prefix) - 1 : -1]
                for model, prefix in ((base, row.view), (policy, row.prompt))
            )
            own = 0.7 * own + 0.3 * (np.exp(p) * (p - q)).sum(-1)
        losses.append(own)
    return np.concatenate(losses)


@pytest.mark.parametrize("budget", [16384, 1])
def test_softened_sft_is_the_references_loss_and_falls(restored: Open, adapter: Path, budget: int) -> None:
    """Rows with a view and one without, all in one pass or each alone: the base is read with no adapter."""
    expected = soft_losses(Reference(STUDENT, adapter), Reference(STUDENT)).mean()
    learner = restored(token_budget=budget)
    metrics = [learner.step(SOFT, 1e-2) for _ in range(15)]
    assert metrics[0]["loss"] == pytest.approx(expected, rel=1e-4)
    assert metrics[0]["tokens"] == 9
    assert metrics[-1]["loss"] < 0.7 * metrics[0]["loss"]


EVERY_OBJECTIVE = [*(OBJECTIVES[name]() for name in sorted(OBJECTIVES)), LdlGrpo(distil=0.5), NegativesFollow()]


@pytest.mark.parametrize("objective", EVERY_OBJECTIVE, ids=lambda o: f"{o.name}-distils" if o.distils else o.name)
def test_every_objective_is_the_references_loss_and_falls(
    restored: Open, learns: Backend, adapter: Path, other_adapter: Path, objective: Objective
) -> None:
    assert learns.capabilities.distils
    other = Reference(STUDENT, other_adapter)
    groups = with_views(some_groups(other)) if objective.distils else some_groups(other)
    expected, figures = loss_of(objective, groups, Reference(STUDENT, adapter), other)
    learner = restored()
    batch = GroupBatch(objective, groups, learner.load_adapter(other_adapter) if objective.distils else None)
    metrics = [learner.step(batch, 1e-3) for _ in range(8)]
    assert metrics[0]["loss"] == pytest.approx(expected, rel=1e-4)
    assert {key: metrics[0][key] for key in figures} == pytest.approx(figures, rel=1e-4, abs=1e-5)
    assert metrics[-1]["loss"] < metrics[0]["loss"]


@dataclass
class Divergence:
    """Keeps the divergences that it is given; its loss is their sum."""

    name: ClassVar[str] = "divergence"
    reference: ClassVar[Any] = "round"
    ranks: ClassVar[bool] = True
    distils: ClassVar[bool] = True
    needs_posterior: ClassVar[bool] = False
    seen: Any = None

    def loss(self, xp: Any, logp: Any, arrays: GroupArrays) -> tuple[Any, dict[str, Any]]:
        if xp.__name__ == "torch":
            self.seen = arrays.divergence.detach().cpu().numpy()
        else:
            self.seen = np.array(arrays.divergence)
        return xp.sum(arrays.divergence), {}


@pytest.mark.parametrize("base", [False, True], ids=["sft", "base"])
@pytest.mark.parametrize("budget", [16384, 20])
def test_divergences_are_the_references_token_by_token(
    restored: Open, adapter: Path, other_adapter: Path, budget: int, base: bool
) -> None:
    """Of a whole group and of a split one; the judge is the adapter that the batch names, or the bare base."""
    policy, judge = Reference(STUDENT, adapter), Reference(STUDENT, None if base else other_adapter)
    groups, learner, objective = with_views(some_groups(judge)[:1]), restored(token_budget=budget), Divergence()
    learner.step(GroupBatch(objective, groups, None if base else learner.load_adapter(other_adapter)), 1e-3)
    expected = divergences(groups, policy, judge)
    assert np.abs(expected).max() > 0.1
    np.testing.assert_allclose(objective.seen, expected, atol=1e-4)


@pytest.mark.parametrize("budget", [20, 1])
def test_a_step_in_pieces_is_the_whole_step(restored: Open, adapter: Path, budget: int) -> None:
    """20 tokens hold a row or two, 1 forces row after row."""
    groups = GroupBatch(OBJECTIVES["ldl-grpo"](), some_groups(Reference(STUDENT, adapter)))
    for batch in (SFT, groups):
        whole, pieces = (restored(token_budget=b).step(batch, 1e-3) for b in (16384, budget))
        assert pieces == pytest.approx(whole, rel=1e-4, abs=1e-6)


def test_a_halved_budget_changes_nothing_but_the_passes(restored: Open, adapter: Path) -> None:
    learner, other = restored(token_budget=64), restored()
    assert [learner.halve_budget(), learner.halve_budget()] == [32, 16]
    groups = GroupBatch(OBJECTIVES["ldl-grpo"](), some_groups(Reference(STUDENT, adapter)))
    assert learner.step(groups, 1e-3) == pytest.approx(other.step(groups, 1e-3), rel=1e-4, abs=1e-6)
    while learner.halve_budget() is not None:
        pass
    learner.step(groups, 1e-3)


def test_a_step_of_the_rate_that_was_given(restored: Open, tmp_path: Path) -> None:
    """Bias-corrected moments make the first update lr * sign(gradient) where the gradient is far above eps."""
    learner = restored()
    before = weights_of(learner, tmp_path / "before")
    learner.step(SFT, 1e-3)
    after = weights_of(learner, tmp_path / "after")
    change = np.concatenate([np.abs(after[name] - before[name]).ravel() for name in before])
    assert np.median(change) == pytest.approx(1e-3, rel=1e-2)
    assert change.max() < 1.001e-3


def test_what_is_not_finite_is_refused_and_changes_nothing(restored: Open, adapter: Path, tmp_path: Path) -> None:
    groups = some_groups(Reference(STUDENT, adapter))
    broken = tuple(replace(g, reference=tuple(x * np.float32("nan") for x in g.reference)) for g in groups)
    learner, other = restored(), restored()
    learner.step(SFT, 1e-3)
    other.step(SFT, 1e-3)
    before = weights_of(learner, tmp_path / "before")
    with pytest.raises(TrainingError, match="not finite"):
        learner.step(GroupBatch(OBJECTIVES["dpo"](), broken), 1e-3)
    assert same(weights_of(learner, tmp_path / "after"), before)
    assert learner.step(SFT, 1e-3) == other.step(SFT, 1e-3)
    assert same(weights_of(learner, tmp_path / "ours"), weights_of(other, tmp_path / "theirs"))


def test_an_adapter_that_a_step_has_spoilt_is_never_kept(restored: Open, tmp_path: Path) -> None:
    """Loss and gradient were finite; the weights that came of them are not."""
    learner = restored()
    learner.step(SFT, float("inf"))
    for keep in (learner.snapshot, learner.save):
        with pytest.raises(TrainingError, match="not finite"):
            keep(tmp_path / "kept")
        assert not (tmp_path / "kept").exists()


# --- adapters ---


def test_a_new_adapter_changes_nothing(new: Open) -> None:
    loss = new().step(SFT, 1e-3)["loss"]
    logp = [Reference(STUDENT).of_answer(row.prompt, row.completion) for row in SFT.rows]
    assert loss == pytest.approx(-np.concatenate(logp).mean(), rel=1e-4)


@pytest.mark.parametrize("name", ENGINES)
def test_a_trained_adapter_in_every_engine(
    restored: Open, spec: ModelSpec, name: str, tmp_path: Path, kept_cache: None
) -> None:
    """PEFT's format whichever backend trained it: the reference, read by hand, and each engine give equal log-probs."""
    learner = restored()
    for _ in range(3):
        learner.step(SFT, 1e-2)
    trained = learner.snapshot(tmp_path / "trained")
    reference = Reference(STUDENT, trained)
    asked = [Continuations((3, 4, 5, 6), ((7, 8, 1), (9, 1))), Continuations((20, 21), ((22, 23, 24, 1),))]
    backend = running(name)
    device = spec.device if name == "torch" else "cpu"
    engine = backend.open(replace(spec, device=device, threads=None if name == "mlx" else spec.threads))
    own = (learner.load_adapter(trained), learner.logprobs)
    for handle, logprobs in (own, (engine.load_adapter(trained), engine.logprobs)):
        for i, scores in logprobs(asked, handle):
            for answer, logp in zip(asked[i].continuations, scores, strict=True):
                np.testing.assert_allclose(logp, reference.of_answer(asked[i].prefix, answer), atol=1e-4)
    engine.close()


def test_a_snapshot_does_not_move_with_the_policy(restored: Open, tmp_path: Path) -> None:
    learner = restored()
    judge = learner.load_adapter(learner.snapshot(tmp_path / "judge"))
    asked = [Continuations((3, 4, 5), ((6, 7, 1),))]
    ((_, (before,)),) = learner.logprobs(asked, judge)
    learner.step(SFT, 1e-2)
    ((_, (after,)),) = learner.logprobs(asked, judge)
    np.testing.assert_array_equal(after, before)


def test_a_foreign_adapter_is_refused(new: Open, adapter: Path, tmp_path: Path) -> None:
    """Of another rank to train on; of another student, or none at all, to train on or to score with."""
    with pytest.raises(DataError, match="rank 4"):
        new(LoraSpec(r=8, alpha=8.0)).restore(adapter)
    learner = new()
    for use in (learner.restore, learner.load_adapter):
        with pytest.raises(DataError):
            use(tmp_path / "missing")
    narrow = tmp_path / "narrow"
    narrow.mkdir()
    (narrow / "adapter_config.json").write_bytes((adapter / "adapter_config.json").read_bytes())
    weights = load_file(adapter / "adapter_model.safetensors")
    cut = {name: w[:, :40] if "lora_A" in name else w for name, w in weights.items()}
    save_file({name: np.ascontiguousarray(w) for name, w in cut.items()}, narrow / "adapter_model.safetensors")
    for use in (learner.restore, learner.load_adapter):
        with pytest.raises(DataError):
            use(narrow)


# --- state ---


def test_restored_and_uninterrupted_are_equal_to_the_bit(
    restored: Open, new: Open, adapter: Path, tmp_path: Path
) -> None:
    groups = GroupBatch(OBJECTIVES["ldl-grpo"](), some_groups(Reference(STUDENT, adapter)))
    whole = restored()
    whole.step(SFT, 1e-2)
    whole.step(groups, 1e-2)
    whole.save(tmp_path / "state")
    expected = [whole.step(batch, 1e-2) for batch in (groups, SFT)]
    resumed = new()
    resumed.restore(tmp_path / "state")
    assert [resumed.step(batch, 1e-2) for batch in (groups, SFT)] == expected
    assert same(weights_of(resumed, tmp_path / "a"), weights_of(whole, tmp_path / "b"))


def test_an_adapter_alone_starts_the_optimizer_anew(restored: Open, new: Open, tmp_path: Path) -> None:
    learner = restored()
    learner.step(SFT, 1e-2)
    learner.snapshot(tmp_path / "adapter")
    anew = new()
    for each in (learner, anew):
        each.restore(tmp_path / "adapter")
    assert learner.step(SFT, 1e-2) == anew.step(SFT, 1e-2)
    assert same(weights_of(learner, tmp_path / "a"), weights_of(anew, tmp_path / "b"))
