"""The judge with the anchor in view beside the policy, on MLX: like torch and float64, however a step was cut."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest

from pudistill_cli.backend_api.contract import GroupBatch, OptimizerSpec, TrainGroup
from pudistill_cli.method.objectives import Objective
from pudistill_cli.method.objectives.ldl_grpo import LdlGrpo
from pudistill_cli.method.objectives.sdft import Sdft
from pudistill_mlx import gradients, head
from tests.backends.pudistill_mlx.small import (
    LORA,
    equal,
    gradient_of,
    open_learner,
    random_groups,
    random_tokens,
    spec_of,
)
from tests.backends.random_batches import assert_near

OBJECTIVES = [Sdft(kl=0.1), LdlGrpo(distil=0.5)]
each_objective = pytest.mark.parametrize("objective", OBJECTIVES, ids=lambda o: o.name)


@pytest.fixture(scope="module")
def judge(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return open_learner(seed=1).snapshot(tmp_path_factory.mktemp("judge") / "sft")


def with_views(groups: tuple[TrainGroup, ...]) -> tuple[TrainGroup, ...]:
    """Views of uneven length, each longer than its prompt."""
    rng = np.random.default_rng(4)
    return tuple(replace(g, view=(*random_tokens(rng, 5 + 3 * i), *g.rows[0].prompt)) for i, g in enumerate(groups))


def distilled(objective: Objective, judge: Path, **changes: Any) -> tuple[dict[str, float], Any]:
    learner = open_learner(**changes)
    handle = learner.load_adapter(judge)
    return gradient_of(learner, GroupBatch(objective, with_views(random_groups(learner)), handle))


@each_objective
def test_loss_and_gradient_equal_torchs_and_the_float64_reference(
    objective: Objective, judge: Path, tmp_path: Path
) -> None:
    pytest.importorskip("torch", reason="needs torch, the other implementation")
    from pudistill_torch import backend as torch_backend
    from tests.backends.pudistill_mlx.test_parity import torch_gradient

    learner = open_learner()
    metrics, gradient = distilled(objective, judge)
    for exact in (False, True):
        other = torch_backend.learn(spec_of(threads=1), LORA, OptimizerSpec(), None)
        other.restore(learner.snapshot(tmp_path / "policy"))
        handle = other.load_adapter(judge)
        if exact:
            other.model._causal.double()
        groups = with_views(random_groups(learner))
        theirs, their_gradient = torch_gradient(other, GroupBatch(objective, groups, handle))
        assert metrics == pytest.approx(theirs, rel=1e-4, abs=1e-6)
        assert_near(their_gradient, gradient, 1e-4)


@each_objective
@pytest.mark.parametrize("budget", [90, 40, 1])
def test_split_groups_equal_unsplit_ones(judge: Path, objective: Objective, budget: int) -> None:
    """90 tokens hold a small group whole, 40 a row or two of any, 1 forces row after row."""
    whole, gradient = distilled(objective, judge)
    split, pieces = distilled(objective, judge, token_budget=budget)
    assert split == pytest.approx(whole, rel=1e-5, abs=1e-6)
    assert_near(gradient, pieces, 2e-5)


def test_two_distributions_in_checkpointed_chunks(judge: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, gradient = distilled(Sdft(), judge)
    monkeypatch.setattr(head, "CHUNK_ELEMENTS", 768 * 6)
    rows: list[int] = []
    real = head.Head.logits

    def counted(self: head.Head, hidden: mx.array) -> mx.array:
        rows.append(len(hidden))
        return real(self, hidden)

    monkeypatch.setattr(head.Head, "logits", counted)
    chunked, pieces = distilled(Sdft(), judge)
    assert chunked == pytest.approx(whole, rel=1e-6)
    assert_near(gradient, pieces, 1e-5)
    assert max(rows[-4:]) <= 3  # the last of them are backward's


@pytest.mark.parametrize("budget", [16384, 20])
def test_a_judge_that_is_the_policy_and_sees_the_prompt_alone_teaches_nothing(tmp_path: Path, budget: int) -> None:
    learner = open_learner(token_budget=budget)
    handle = learner.load_adapter(learner.snapshot(tmp_path / "judge"))
    groups = random_groups(learner)
    same = tuple(replace(group, view=group.rows[0].prompt) for group in groups)
    size = {}
    for name, seen in (("same", same), ("other", with_views(groups))):
        metrics, gradient = gradient_of(learner, GroupBatch(Sdft(anchor_nll=0.0), seen, handle))
        size[name] = (metrics["distil"], np.sqrt(sum(np.square(g).sum() for g in gradient.values())))
    assert abs(size["same"][0]) < 1e-5 * size["other"][0]
    assert size["same"][1] < 1e-5 * size["other"][1]


def test_views_count_against_the_token_budget(judge: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A pass's prompts and answers, padded to the longest: by the prompts alone the judge's would be larger."""
    budget, passes, states = 100, [], gradients.branch_states

    def measured(model: Any, adapter: Any, prefixes: Any, branches: Any, rows: int) -> Any:
        answers = len(branches) * (1 + max(len(b.tokens) for b in branches))  # the last is predicted, not read
        passes.append(len(prefixes) * max(map(len, prefixes)) + answers)
        return states(model, adapter, prefixes, branches, rows)

    monkeypatch.setattr(gradients, "branch_states", measured)
    learner = open_learner(token_budget=budget)
    handle = learner.load_adapter(judge)
    gradient_of(learner, GroupBatch(Sdft(), with_views(random_groups(learner)), handle))
    assert budget / 2 < max(passes) <= budget


def test_ldl_grpo_without_the_term_reads_no_judge(judge: Path) -> None:
    """To the bit what it is without a view and a judge, in as many tokens. One group: views cannot change the order."""
    learner = open_learner()
    handle, groups = learner.load_adapter(judge), random_groups(learner, sizes=(5,))
    ways = []
    for batch in (GroupBatch(LdlGrpo(), groups), GroupBatch(LdlGrpo(), with_views(groups), handle)):
        before = learner.model.forward_tokens
        metrics, gradient = gradient_of(learner, batch)
        ways.append((metrics, learner.model.forward_tokens - before, gradient))
    (metrics, tokens, gradient), (others, more, other) = ways
    assert (metrics, tokens) == (others, more)
    assert equal(gradient, other)
