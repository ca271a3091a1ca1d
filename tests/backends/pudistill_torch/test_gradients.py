"""The gradient of a step is that of the float64 reference, however the step was cut."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import GPT2Config

from pudistill_cli.backend_api.contract import GroupBatch, Row, SftBatch
from pudistill_cli.method.batch import stack, step_constants
from pudistill_cli.method.objectives import Objective
from pudistill_cli.method.objectives.dpo import Dpo
from pudistill_cli.method.objectives.grpo import Grpo
from pudistill_cli.method.objectives.ldl_grpo import LdlGrpo
from pudistill_cli.method.objectives.pu_dpo import PuDpo
from pudistill_cli.method.objectives.rft import Rft
from pudistill_cli.method.objectives.spin import Spin
from pudistill_torch import head
from pudistill_torch.gradients import group_gradient, sft_gradient
from pudistill_torch.learner import TorchLearner
from tests.backends.pudistill_torch.small import (
    gradients,
    open_learner,
    random_groups,
    random_tokens,
    save_student,
)
from tests.backends.random_batches import assert_near

OBJECTIVES = [Dpo(), Grpo(anchor_nll=0.1), LdlGrpo(), PuDpo(), Rft(), Spin()]
each_objective = pytest.mark.parametrize("objective", OBJECTIVES, ids=lambda o: o.name)


def row_by_row(learner: TorchLearner, rows: list[Row]) -> list[torch.Tensor]:
    """The textbook form with a graph: one row at a time, all logits, log-softmax."""
    scores = []
    for row in rows:
        with learner.model._using("policy"):
            logits = learner.model._causal(torch.tensor([row.prompt + row.completion])).logits[0]
        logp = logits.log_softmax(-1)[len(row.prompt) - 1 : -1]
        scores.append(logp[torch.arange(len(row.completion)), torch.tensor(row.completion)])
    return scores


def reference_loss(learner: TorchLearner, objective: Objective, groups: Any, xp: Any) -> Any:
    """The objective on textbook log-probs, in float64 NumPy or torch."""
    arrays = stack(groups, step_constants(groups), np.float64)
    logp = torch.zeros(arrays.mask.shape, dtype=torch.float64)
    for g, group in enumerate(groups):
        for m, row in enumerate(row_by_row(learner, list(group.rows))):
            logp[g, m, : len(row)] = row
    if xp is np:
        return objective.loss(np, logp.detach().numpy(), arrays)[0]
    return objective.loss(torch, logp, arrays.convert(torch.from_numpy))[0]


@pytest.fixture(scope="module")
def gpt2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An architecture without float32 inside: Llama's norm and rotary embedding are, whatever the weights are."""
    config = GPT2Config(vocab_size=64, n_embd=32, n_layer=2, n_head=4, n_positions=64, bos_token_id=1, eos_token_id=2)
    return save_student(tmp_path_factory.mktemp("gpt2"), config)


@each_objective
def test_loss_and_gradient_equal_the_float64_reference(gpt2: Path, objective: Objective) -> None:
    """Everything in float64, so that nothing but a mistake can differ."""
    learner = open_learner(gpt2, context=64)
    learner.model._causal.double()
    groups = random_groups(learner)
    metrics = group_gradient(learner.model, GroupBatch(objective, groups))
    gradient = gradients(learner)
    assert metrics["loss"] == pytest.approx(reference_loss(learner, objective, groups, np), rel=1e-12)
    reference_loss(learner, objective, groups, torch).backward()
    assert_near(gradients(learner), gradient, 1e-11)


@each_objective
def test_float32_is_near_the_float64_reference(student: Path, objective: Objective) -> None:
    learner = open_learner(student)
    groups = random_groups(learner)
    metrics = group_gradient(learner.model, GroupBatch(objective, groups))
    gradient = gradients(learner)
    assert metrics["loss"] == pytest.approx(reference_loss(learner, objective, groups, np), rel=1e-5)
    reference_loss(learner, objective, groups, torch).backward()
    assert_near(gradients(learner), gradient, 1e-5)


def in_pieces(folder: Path, objective: Objective, budget: int, dtype: torch.dtype) -> tuple[Any, Any]:
    learner = open_learner(folder, token_budget=budget, context=64)
    learner.model._causal.to(dtype)
    metrics = group_gradient(learner.model, GroupBatch(objective, random_groups(learner)))
    return metrics, gradients(learner)


@each_objective
@pytest.mark.parametrize("budget", [60, 20, 1])
def test_split_groups_equal_unsplit_ones(gpt2: Path, objective: Objective, budget: int) -> None:
    """60 tokens hold a small group whole, 20 a row or two of any, 1 forces row after row."""
    whole, gradient = in_pieces(gpt2, objective, 16384, torch.float64)
    split, pieces = in_pieces(gpt2, objective, budget, torch.float64)
    assert split == pytest.approx(whole, rel=1e-12, abs=1e-12)
    assert_near(gradient, pieces, 1e-11)


@each_objective
def test_split_groups_in_float32(student: Path, objective: Objective) -> None:
    whole, gradient = in_pieces(student, objective, 16384, torch.float32)
    split, pieces = in_pieces(student, objective, 20, torch.float32)
    assert split == pytest.approx(whole, rel=1e-5, abs=1e-6)
    assert_near(gradient, pieces, 3e-6)


def make_rows(count: int = 7) -> tuple[Row, ...]:
    rng = np.random.default_rng(3)
    rows = [Row(random_tokens(rng, rng.integers(1, 12)), random_tokens(rng, rng.integers(1, 9))) for _ in range(count)]
    return tuple(Row(row.prompt, (*row.completion, 2)) for row in rows)


@pytest.mark.parametrize("budget", [16384, 40, 1])
def test_sft_is_the_mean_over_all_answer_tokens(student: Path, budget: int) -> None:
    learner = open_learner(student, token_budget=budget)
    rows = make_rows()
    metrics = sft_gradient(learner.model, SftBatch(rows))
    gradient = gradients(learner)
    loss = -torch.cat(row_by_row(learner, list(rows))).mean()
    assert metrics == pytest.approx({"loss": loss.item(), "tokens": sum(len(row.completion) for row in rows)})
    loss.backward()
    assert_near(gradients(learner), gradient, 5e-6)


@pytest.mark.parametrize("position", [0, 3])
def test_every_answer_token_is_supervised_and_no_prompt_token(student: Path, position: int) -> None:
    """The loss of one row is that of its answer's tokens, the end of turn included, and the prompt's do not count."""
    learner = open_learner(student)
    row = Row((3, 4, 5), (6, 7, 8, 2))
    loss = sft_gradient(learner.model, SftBatch((row,)))["loss"]
    logp = row_by_row(learner, [row])[0].detach()
    without = (logp.sum() - logp[position]) / 3
    assert loss == pytest.approx(float(-logp.mean()), rel=1e-5)
    assert loss != pytest.approx(float(-without), rel=1e-3)


def test_logits_in_checkpointed_chunks(student: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    learner = open_learner(student)
    sft_gradient(learner.model, SftBatch(make_rows()))
    whole = gradients(learner)
    monkeypatch.setattr(head, "CHUNK_ELEMENTS", 64 * 3)
    sft_gradient(learner.model, SftBatch(make_rows()))
    assert_near(whole, gradients(learner), 1e-6)


def test_a_prompt_is_computed_once_for_its_group(student: Path) -> None:
    learner = open_learner(student)
    prompt = tuple(range(3, 43))
    groups = random_groups(learner, sizes=(3,))
    rows = tuple(Row(prompt, row.completion) for row in groups[0].rows)
    longest = max(len(row.completion) for row in rows)
    group = type(groups[0])(rows, groups[0].reference, groups[0].behaviour, groups[0].targets)
    before = learner.model.forward_tokens
    group_gradient(learner.model, GroupBatch(LdlGrpo(), (group,)))
    assert learner.model.forward_tokens - before == 40 + 3 * (longest - 1)
