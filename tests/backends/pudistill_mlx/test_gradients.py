"""The gradient of a step, however it was cut, and what of a row is learned."""

from __future__ import annotations

from dataclasses import replace

import mlx.core as mx
import numpy as np
import pytest

from pudistill_cli.backend_api.contract import GroupBatch, Row, SftBatch, TrainGroup
from pudistill_cli.method.objectives import Objective
from pudistill_cli.method.objectives.dpo import Dpo
from pudistill_cli.method.objectives.grpo import Grpo
from pudistill_cli.method.objectives.ldl_grpo import LdlGrpo
from pudistill_cli.method.objectives.pu_dpo import PuDpo
from pudistill_cli.method.objectives.rft import Rft
from pudistill_cli.method.objectives.spin import Spin
from pudistill_mlx import head
from pudistill_mlx.learner import MlxLearner
from tests.backends.pudistill_mlx.small import (
    SFT,
    STOP,
    equal,
    fresh_learner,
    gradient_of,
    open_learner,
    random_groups,
)
from tests.backends.random_batches import assert_near

OBJECTIVES = [Dpo(), Grpo(anchor_nll=0.1), LdlGrpo(), PuDpo(), Rft(), Spin()]


@pytest.fixture(scope="module")
def learner() -> MlxLearner:
    return open_learner()


def logprobs_of(learner: MlxLearner, row: Row) -> np.ndarray:
    """The textbook form: one row, every logit by the model's own head, log-softmax in float64."""
    ids = mx.array([row.prompt + row.completion])
    with learner.model.switch.on(as_adapter(learner)):
        logits = np.array(learner.model.causal(ids)[0].astype(mx.float32)).astype(np.float64)
    logp = logits - np.logaddexp.reduce(logits, axis=-1, keepdims=True)
    return logp[len(row.prompt) - 1 + np.arange(len(row.completion)), list(row.completion)]


def as_adapter(learner: MlxLearner) -> dict:
    from pudistill_mlx.policy import as_adapter

    return dict(as_adapter(learner._policy, 2.0))  # alpha 8 / r 4


# --- how a step is cut ---


@pytest.mark.parametrize("objective", OBJECTIVES, ids=lambda o: o.name)
@pytest.mark.parametrize("budget", [60, 20, 1])
def test_split_groups_equal_unsplit_ones(learner: MlxLearner, objective: Objective, budget: int) -> None:
    """60 tokens hold a small group whole, 20 a row or two of any, 1 forces row after row."""
    batch = GroupBatch(objective, random_groups(learner))
    whole, gradient = gradient_of(learner, batch)
    split, pieces = gradient_of(open_learner(token_budget=budget), batch)
    assert split == pytest.approx(whole, rel=1e-5, abs=1e-6)
    assert_near(gradient, pieces, 1e-5)


@pytest.mark.parametrize("budget", [20, 1])
def test_sft_in_micro_batches_equals_one(learner: MlxLearner, budget: int) -> None:
    whole, gradient = gradient_of(learner, SFT)
    split, pieces = gradient_of(open_learner(token_budget=budget), SFT)
    assert split == pytest.approx(whole, rel=1e-6)
    assert_near(gradient, pieces, 1e-5)


def test_logits_in_checkpointed_chunks(learner: MlxLearner, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, gradient = gradient_of(learner, SFT)
    monkeypatch.setattr(head, "CHUNK_ELEMENTS", 768 * 2)
    chunked, pieces = gradient_of(learner, SFT)
    assert chunked == pytest.approx(whole, rel=1e-6)
    assert_near(gradient, pieces, 1e-5)


def test_a_prompt_is_computed_once_for_its_group(learner: MlxLearner) -> None:
    prompt = tuple(range(3, 43))
    (group,) = random_groups(learner, sizes=(3,))
    rows = tuple(Row(prompt, row.completion) for row in group.rows)
    before = learner.model.forward_tokens
    gradient_of(learner, GroupBatch(LdlGrpo(), (replace(group, rows=rows),)))
    assert learner.model.forward_tokens - before == 40 + 3 * (max(len(row.completion) for row in rows) - 1)


# --- right where others were wrong ---


def test_sft_is_the_mean_over_answer_tokens_behind_their_prompts(learner: MlxLearner) -> None:
    """Row by row in the textbook form; without the prompts in view the loss would be another one."""
    logp = np.concatenate([logprobs_of(learner, row) for row in SFT.rows])
    metrics, _ = gradient_of(learner, SFT)
    assert metrics == {"loss": pytest.approx(-logp.mean(), rel=1e-5), "tokens": 9.0}
    blind = [logprobs_of(learner, Row(row.prompt[-1:], row.completion)) for row in SFT.rows]
    assert metrics["loss"] != pytest.approx(-np.concatenate(blind).mean(), rel=1e-2)


def test_completions_of_a_group_are_scored_with_their_prompt_in_view(learner: MlxLearner) -> None:
    """rft's loss is -log pi of the best candidate: that of the whole conversation, read from the start."""
    groups = random_groups(learner)
    expected = 0.0
    for group in groups:
        targets = group.targets
        candidate = np.flatnonzero(targets.member * (1 - targets.anchor))
        best = candidate[np.argmax(targets.advantage[candidate])]
        expected -= logprobs_of(learner, group.rows[best]).sum() / len(groups)
    assert gradient_of(learner, GroupBatch(Rft(), groups))[0]["loss"] == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("position", range(4))
def test_each_token_is_trained_and_the_end_of_turn_too(position: int) -> None:
    """d loss / d B of a row is the mean of its tokens' own: leaving out any of them, the last one too, shows."""
    learner = open_learner()
    row = Row((3, 4, 5), (6, 7, 8, STOP))
    _, whole = gradient_of(learner, SftBatch((row,)))
    alone = Row(row.prompt + row.completion[:position], row.completion[position : position + 1])
    _, one = gradient_of(learner, SftBatch((alone,)))
    parts = [
        gradient_of(learner, SftBatch((Row(row.prompt + row.completion[:t], row.completion[t : t + 1]),)))[1]
        for t in range(4)
    ]
    assert_near(whole, {name: sum(part[name] for part in parts) / 4 for name in whole}, 1e-4)
    share = np.sqrt(sum(np.square(g).sum() for g in one.values()) / sum(np.square(g).sum() for g in whole.values()))
    assert share > 0.01


def test_the_ratio_is_against_the_policy_that_sampled(learner: MlxLearner) -> None:
    """With the behaviour's log-probs 0.1 below our own each ratio is e^0.1: the loss is -e^0.1 times the advantages'
    mean, whatever the reference says; a ratio against the reference would be 1."""
    (group,) = random_groups(learner, sizes=(3,))
    own = tuple(logprobs_of(learner, row).astype(np.float32) for row in group.rows)
    group = replace(group, reference=own, behaviour=tuple(x - np.float32(0.1) for x in own))
    loss = gradient_of(learner, GroupBatch(Grpo(kl=0.0), (group,)))[0]["loss"]
    lengths = np.array([len(row.completion) for row in group.rows])
    mean = (group.targets.advantage * lengths).sum() / lengths.sum()
    assert loss == pytest.approx(-np.exp(0.1) * mean, rel=1e-4)


@pytest.mark.parametrize("log_ratio", [0.5, -0.5])
def test_kl_is_the_k3_form(learner: MlxLearner, log_ratio: float) -> None:
    """log pi_ref - log pi = x at every token: the penalty is e^x - 1 - x, positive both ways (k1 would be -x)."""
    groups = random_groups(learner)
    own = [tuple(logprobs_of(learner, row).astype(np.float32) for row in group.rows) for group in groups]
    moved: list[TrainGroup] = [
        replace(g, reference=tuple(x + np.float32(log_ratio) for x in rows), behaviour=rows)
        for g, rows in zip(groups, own, strict=True)
    ]
    kl = gradient_of(learner, GroupBatch(Grpo(), tuple(moved)))[0]["kl"]
    assert kl == pytest.approx(np.exp(log_ratio) - 1 - log_ratio, rel=1e-3)


def test_log_softmax_is_not_in_half_precision() -> None:
    """Of the same bfloat16 hidden states: within 1e-5 of float64, where a bfloat16 log-softmax is off by 1e-2."""
    learner = open_learner(dtype="bfloat16")
    hidden = learner.model.hidden(mx.array([[3, 4, 5, 6, 7, 8]]), {})[0]
    targets = mx.array([10, 20, 30, 40, 50, 60])
    logits = learner.model.causal.model.embed_tokens.as_linear(hidden)
    assert logits.dtype == mx.bfloat16
    exact = np.array(logits.astype(mx.float32)).astype(np.float64)
    exact = exact[np.arange(6), np.array(targets)] - np.logaddexp.reduce(exact, axis=-1)
    half = logits - mx.logsumexp(logits, axis=-1, keepdims=True)
    half = np.array(half[mx.arange(6), targets].astype(mx.float32))
    logprobs = learner.model.head.logprobs(hidden, targets)
    assert logprobs.dtype == mx.float32
    assert np.abs(np.array(logprobs) - exact).max() < 1e-5
    assert np.abs(half - exact).max() > 1e-3
    _, gradient = gradient_of(learner, SFT)
    assert {g.dtype for g in gradient.values()} == {np.dtype(np.float32)}


def test_at_the_start_only_b_has_a_gradient() -> None:
    """B is zero there, and with it the gradient of A."""
    learner = fresh_learner()
    _, gradient = gradient_of(learner, SFT)
    assert all(g.any() == name.endswith(".b") for name, g in gradient.items())
    assert equal(gradient, gradient_of(learner, SFT)[1])
