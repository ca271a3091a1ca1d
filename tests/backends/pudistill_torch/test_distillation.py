"""The judge with the anchor in view beside the policy: the gradient is the textbook form's, however a step was cut."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import GPT2Config

from pudistill_cli.backend_api.contract import GroupBatch, Row, SftBatch, TrainGroup
from pudistill_cli.method.batch import stack, step_constants
from pudistill_cli.method.objectives import Objective
from pudistill_cli.method.objectives.ldl_grpo import LdlGrpo
from pudistill_cli.method.objectives.sdft import Sdft
from pudistill_cli.types import Tokens
from pudistill_torch import gradients as gradients_module
from pudistill_torch import head
from pudistill_torch.gradients import group_gradient, sft_gradient
from pudistill_torch.learner import TorchLearner
from pudistill_torch.model import POLICY
from tests.backends.pudistill_torch.small import (
    gradients,
    open_learner,
    random_groups,
    random_tokens,
    save_student,
)
from tests.backends.random_batches import assert_near

OBJECTIVES = [Sdft(kl=0.1), LdlGrpo(distil=0.5)]
each_objective = pytest.mark.parametrize("objective", OBJECTIVES, ids=lambda o: o.name)


@pytest.fixture(scope="module")
def gpt2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An architecture that is float64 throughout when its weights are."""
    config = GPT2Config(vocab_size=64, n_embd=32, n_layer=2, n_head=4, n_positions=64, bos_token_id=1, eos_token_id=2)
    return save_student(tmp_path_factory.mktemp("gpt2"), config)


@pytest.fixture(scope="module")
def judge(gpt2: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return open_learner(gpt2, seed=1, context=64).snapshot(tmp_path_factory.mktemp("judge") / "sft")


def with_views(groups: tuple[TrainGroup, ...]) -> tuple[TrainGroup, ...]:
    """Views of uneven length, each longer than its prompt."""
    rng = np.random.default_rng(4)
    return tuple(replace(g, view=(*random_tokens(rng, 5 + 3 * i), *g.rows[0].prompt)) for i, g in enumerate(groups))


def distribution(learner: TorchLearner, prefix: Tokens, answer: Tokens, adapter: str | None) -> torch.Tensor:
    """(T, V) log-probs by the checkpoint's own code, one row from its start."""
    with learner.model._using(adapter):
        logits = learner.model._causal(torch.tensor([prefix + answer])).logits[0]
    return logits.log_softmax(-1)[len(prefix) - 1 : -1]


def textbook(learner: TorchLearner, objective: Objective, groups: Any, judge: str | None) -> torch.Tensor:
    """The objective on log-probs and divergences of whole distributions, with a graph."""
    arrays = stack(groups, step_constants(groups), np.float64).convert(torch.from_numpy)
    logp, divergence = torch.zeros_like(arrays.mask), torch.zeros_like(arrays.mask)
    for g, group in enumerate(groups):
        for m, row in enumerate(group.rows):
            policy = distribution(learner, row.prompt, row.completion, "policy")
            with torch.no_grad():
                judged = distribution(learner, group.view, row.completion, judge)
            n = len(row.completion)
            logp[g, m, :n] = policy[torch.arange(n), torch.tensor(row.completion)]
            divergence[g, m, :n] = (policy.exp() * (policy - judged)).sum(-1)
    return objective.loss(torch, logp, replace(arrays, divergence=divergence))[0]


@each_objective
@pytest.mark.parametrize("base", [False, True], ids=["sft", "base"])
def test_loss_and_gradient_equal_the_float64_reference(
    gpt2: Path, judge: Path, objective: Objective, base: bool
) -> None:
    learner = open_learner(gpt2, context=64)
    handle = None if base else learner.load_adapter(judge)
    learner.model._causal.double()
    groups = with_views(random_groups(learner))
    metrics = group_gradient(learner.model, GroupBatch(objective, groups, handle))
    gradient = gradients(learner)
    loss = textbook(learner, objective, groups, handle)
    assert metrics["loss"] == pytest.approx(loss.item(), rel=1e-12)
    loss.backward()
    assert_near(gradients(learner), gradient, 1e-11)


def in_pieces(folder: Path, judge: Path, objective: Objective, budget: int) -> tuple[Any, Any]:
    learner = open_learner(folder, token_budget=budget, context=64)
    handle = learner.load_adapter(judge)
    learner.model._causal.double()
    metrics = group_gradient(learner.model, GroupBatch(objective, with_views(random_groups(learner)), handle))
    return metrics, gradients(learner)


@each_objective
@pytest.mark.parametrize("budget", [90, 40, 1])
def test_split_groups_equal_unsplit_ones(gpt2: Path, judge: Path, objective: Objective, budget: int) -> None:
    """90 tokens hold a small group whole, 40 a row or two of any, 1 forces row after row."""
    whole, gradient = in_pieces(gpt2, judge, objective, 16384)
    split, pieces = in_pieces(gpt2, judge, objective, budget)
    assert split == pytest.approx(whole, rel=1e-12, abs=1e-12)
    assert_near(gradient, pieces, 1e-11)


def test_two_distributions_in_checkpointed_chunks(gpt2: Path, judge: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No pass through the head holds more logits than it may, neither forward nor when backward computes again."""
    whole, gradient = in_pieces(gpt2, judge, Sdft(), 16384)
    rows: list[int] = []
    real = head.Head.logits

    def counted(self: head.Head, hidden: torch.Tensor) -> torch.Tensor:
        rows.append(len(hidden))
        return real(self, hidden)

    monkeypatch.setattr(head, "CHUNK_ELEMENTS", 64 * 6)
    monkeypatch.setattr(head.Head, "logits", counted)
    chunked, pieces = in_pieces(gpt2, judge, Sdft(), 16384)
    assert chunked == pytest.approx(whole, rel=1e-12)
    assert_near(gradient, pieces, 1e-11)
    assert max(rows[-4:]) <= 3  # the last of them are backward's


@pytest.mark.parametrize("budget", [16384, 20])
def test_a_judge_that_is_the_policy_and_sees_the_prompt_alone_teaches_nothing(
    student: Path, tmp_path: Path, budget: int
) -> None:
    learner = open_learner(student, token_budget=budget)
    handle = learner.load_adapter(learner.snapshot(tmp_path / "judge"))
    groups = random_groups(learner)
    same = tuple(replace(group, view=group.rows[0].prompt) for group in groups)
    size = {}
    for name, seen in (("same", same), ("other", with_views(groups))):
        metrics = group_gradient(learner.model, GroupBatch(Sdft(anchor_nll=0.0), seen, handle))
        size[name] = (metrics["distil"], np.sqrt(sum(np.square(g).sum() for g in gradients(learner).values())))
    assert abs(size["same"][0]) < 1e-6 * size["other"][0]
    assert size["same"][1] < 1e-5 * size["other"][1]


def test_views_count_against_the_token_budget(student: Path, adapter: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A pass's prompts and answers, padded to the longest: by the prompts alone the judge's would be larger."""
    budget, passes, states = 100, [], gradients_module.branch_states

    def measured(model: Any, adapter: Any, prefixes: Any, branches: Any, rows: int) -> Any:
        answers = len(branches) * (1 + max(len(b.tokens) for b in branches))  # the last is predicted, not read
        passes.append(len(prefixes) * max(map(len, prefixes)) + answers)
        return states(model, adapter, prefixes, branches, rows)

    monkeypatch.setattr(gradients_module, "branch_states", measured)
    learner = open_learner(student, token_budget=budget)
    groups, handle = with_views(random_groups(learner)), learner.load_adapter(adapter)
    group_gradient(learner.model, GroupBatch(Sdft(), groups, handle))
    assert budget / 2 < max(passes) <= budget


def test_ldl_grpo_without_the_term_reads_no_judge(student: Path, adapter: Path) -> None:
    """To the bit what it is without a view and a judge, in as many tokens. One group: views cannot change the order."""
    learner = open_learner(student)
    handle, groups = learner.load_adapter(adapter), random_groups(learner, sizes=(5,))
    ways = []
    for batch in (GroupBatch(LdlGrpo(), groups), GroupBatch(LdlGrpo(), with_views(groups), handle)):
        before = learner.model.forward_tokens
        metrics = group_gradient(learner.model, batch)
        ways.append((metrics, learner.model.forward_tokens - before, gradients(learner)))
    (metrics, tokens, gradient), (others, more, other) = ways
    assert (metrics, tokens) == (others, more)
    assert all(np.array_equal(gradient[name], other[name]) for name in gradient)


def soft_batch() -> SftBatch:
    """Rows of several lengths; each third has no view."""
    rng = np.random.default_rng(5)
    rows = [
        Row(
            random_tokens(rng, 2 + i),
            (*random_tokens(rng, 1 + 2 * i), 2),
            () if i % 3 == 2 else random_tokens(rng, 9 + i),
        )
        for i in range(6)
    ]
    return SftBatch(tuple(rows), soft=0.4)


@pytest.mark.parametrize("budget", [16384, 30, 1])
def test_softened_targets_have_the_float64_gradient(gpt2: Path, budget: int) -> None:
    """The mean over tokens of 0.6 -log p + 0.4 KL(base behind the view || policy); -log p alone without a view."""
    learner = open_learner(gpt2, token_budget=budget, context=64)
    learner.model._causal.double()
    batch = soft_batch()
    metrics = sft_gradient(learner.model, batch)
    gradient = gradients(learner)
    terms: list[torch.Tensor] = []
    for row in batch.rows:
        policy = distribution(learner, row.prompt, row.completion, "policy")
        own = -policy[torch.arange(len(row.completion)), torch.tensor(row.completion)]
        if row.view:
            with torch.no_grad():
                base = distribution(learner, row.view, row.completion, None)
            own = 0.6 * own + 0.4 * (base.exp() * (base - policy)).sum(-1)
        terms.append(own)
    loss = torch.cat(terms).mean()
    assert metrics["loss"] == pytest.approx(loss.item(), rel=1e-12)
    loss.backward()
    assert_near(gradients(learner), gradient, 1e-11)


def test_a_base_that_is_the_policy_and_sees_the_prompt_alone_softens_to_nothing(gpt2: Path) -> None:
    """KL(p || p) has no gradient; an adapter whose B is zero is the base."""
    learner = open_learner(gpt2, context=64)
    for name, weight in learner.model.weights(POLICY).items():
        if "lora_B" in name:
            weight.data.zero_()
    rows = tuple(replace(row, view=row.prompt) for row in soft_batch().rows)
    size = {}
    for name, share in (("hard", 0.0), ("soft", 1.0)):
        sft_gradient(learner.model, SftBatch(rows, soft=share))
        size[name] = np.sqrt(sum(np.square(g).sum() for g in gradients(learner).values()))
    assert size["soft"] < 1e-5 * size["hard"]


def test_softened_logits_in_checkpointed_chunks(gpt2: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    learner = open_learner(gpt2, context=64)
    learner.model._causal.double()
    whole, gradient = sft_gradient(learner.model, soft_batch()), gradients(learner)
    monkeypatch.setattr(head, "CHUNK_ELEMENTS", 64 * 6)
    chunked, pieces = sft_gradient(learner.model, soft_batch()), gradients(learner)
    assert chunked == pytest.approx(whole, rel=1e-12)
    assert_near(gradient, pieces, 1e-11)
