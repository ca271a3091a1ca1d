"""The gradient identities of docs/method.md, to 1e-9, with log-probs themselves as parameters.

By the chain rule an identity between gradients with respect to log-probs holds for every model.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from pudistill_cli.method.objectives.dpo import Dpo
from pudistill_cli.method.objectives.grpo import Grpo
from pudistill_cli.method.objectives.ldl_grpo import LdlGrpo
from pudistill_cli.method.objectives.pu_dpo import PuDpo
from pudistill_cli.method.objectives.registry import OBJECTIVES
from pudistill_cli.method.objectives.spin import Spin
from pudistill_cli.method.preferences import PreferenceSettings, ScoredGroup, identities, targets
from tests.pudistill_cli.method.groups import Group, make_groups, torch_loss

GROUP_TERM = LdlGrpo(beta=0.3, eps=np.inf, anchor_nll=0.0, kl=0.0)


def at_reference(groups: list[Group]) -> list[Group]:
    return [replace(g, reference=g.logp, behaviour=g.logp) for g in groups]


def per_row(gradient: np.ndarray, groups: list[Group]) -> list[np.ndarray]:
    """(M,) the gradient of each row's tokens, which must be one number a row."""
    rows = []
    for g, group in enumerate(groups):
        values = [gradient[g, m, : len(row)] for m, row in enumerate(group.logp)]
        assert all(np.ptp(v) < 1e-12 for v in values)
        rows.append(np.array([v[0] for v in values]))
    return rows


def policy_distribution(group: Group, beta: float) -> np.ndarray:
    r = np.array([(p - q).sum() for p, q in zip(group.logp, group.reference, strict=True)])
    weight = group.targets.member * group.targets.slots * np.exp(beta * r)
    return weight / weight.sum()


@pytest.mark.parametrize("beta", [0.1, 0.3, 1.0])
def test_ldl_gradient_is_label_minus_policy(beta: float):
    """-sum_i (d_i - p_i) grad log pi(y_i), mean over groups, away from the reference."""
    groups = make_groups(drift=0.5)
    _, _, gradient = torch_loss(replace(GROUP_TERM, beta=beta), groups)
    for row, group in zip(per_row(gradient, groups), groups, strict=True):
        expected = -(group.targets.label - policy_distribution(group, beta)) / len(groups)
        np.testing.assert_allclose(row, expected, atol=1e-9)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_an_answer_of_half_the_weight_twice_is_the_answer(name: str):
    """Two copies of a row, each of weight and slot 1/2, have the loss of the row and half its gradient each."""
    (group,) = make_groups(sizes=(2,), drift=0.3)
    told = targets(
        ScoredGroup(np.array([0.5, -1.0, 0.0]), np.arange(3), np.zeros(3, dtype=bool)), PreferenceSettings(), 0.0
    )
    whole = replace(
        group, targets=replace(told, pairs=np.zeros((0, 3)), pair_weight=np.zeros(0), pair_smoothing=np.zeros(0))
    )
    copies = [0, 1, 1, 2]

    def twice(rows: np.ndarray) -> np.ndarray:
        return rows[copies] * np.array([1, 0.5, 0.5, 1])

    half = replace(
        told,
        member=twice(told.member),
        anchor=told.anchor[copies],
        slots=twice(told.slots),
        label=twice(told.label),
        advantage=told.advantage[copies],
        posterior=told.posterior[copies],
        pairs=np.zeros((0, 4)),
        pair_weight=np.zeros(0),
        pair_smoothing=np.zeros(0),
    )

    def rows(values: tuple[np.ndarray, ...]) -> tuple[np.ndarray, ...]:
        return tuple(values[i] for i in copies)

    split = Group(rows(group.logp), rows(group.reference), rows(group.behaviour), half, rows(group.divergence))
    loss, _, gradient = torch_loss(OBJECTIVES[name](), [whole])
    split_loss, _, split_gradient = torch_loss(OBJECTIVES[name](), [split])
    assert split_loss == pytest.approx(loss, rel=1e-12)
    np.testing.assert_allclose(split_gradient[0, 1] + split_gradient[0, 2], gradient[0, 1], atol=1e-12)
    np.testing.assert_allclose(split_gradient[0, [0, 3]], gradient[0, [0, 2]], atol=1e-12)


def test_ldl_gradient_at_the_reference_is_label_minus_uniform():
    """d_i - 1/K over K distinct candidates."""
    scored = ScoredGroup(np.array([0.3, -1.0, 2.0, 0.0]), np.arange(4), np.zeros(4, dtype=bool))
    found = targets(scored, PreferenceSettings(anchor="out"), 0.0)
    rows = tuple(-np.ones(n) for n in (2, 1, 3, 2))
    _, _, gradient = torch_loss(GROUP_TERM, [Group(rows, rows, rows, found)])
    np.testing.assert_allclose(gradient[0, :, 0], -(found.label - np.array([1, 1, 1, 0]) / 3), atol=1e-9)


def test_ldl_with_two_and_a_hard_label_is_dpo():
    """beta * (KL(d || p) / beta) = -log sigmoid(beta (r_+ - r_-)): DPO's loss and gradient times 1 / beta."""
    found = replace(
        targets(
            ScoredGroup(np.array([1.0, 0.0, 0.0]), np.arange(3), np.zeros(3, dtype=bool)),
            PreferenceSettings(anchor="out"),
            0.0,
        ),
        label=np.array([1.0, 0.0, 0.0]),
        pairs=np.array([[1.0, -1.0, 0.0]]),
        pair_weight=np.ones(1),
        pair_smoothing=np.zeros(1),
    )
    rng = np.random.default_rng(1)
    logp, reference = (tuple(-rng.exponential(size=n) for n in (3, 5, 1)) for _ in range(2))
    group = [Group(logp, reference, logp, found)]
    ldl, _, ldl_gradient = torch_loss(replace(GROUP_TERM, beta=0.7), group)
    dpo, _, dpo_gradient = torch_loss(Dpo(beta=0.7, nll=0.0), group)
    assert ldl * 0.7 == pytest.approx(dpo, rel=1e-12)
    np.testing.assert_allclose(ldl_gradient * 0.7, dpo_gradient, atol=1e-12)


def test_grpo_gradient_at_the_sampling_policy_is_the_policy_gradient():
    """-A_i grad log pi(y_i) / (member tokens)."""
    groups = at_reference(make_groups())
    _, _, gradient = torch_loss(Grpo(), groups)
    tokens = sum(g.targets.member @ [len(r) for r in g.logp] for g in groups)
    for row, group in zip(per_row(gradient, groups), groups, strict=True):
        np.testing.assert_allclose(row, -group.targets.advantage / tokens, atol=1e-12)


@pytest.mark.parametrize("objective", [GROUP_TERM, Grpo(kl=0.0)])
def test_identical_candidates_give_no_gradient(objective: LdlGrpo | Grpo):
    """K equal answers, whatever rounding made of their scores and wherever the policy went; nor a pair."""
    scores = np.array([0.5, 0.5 + 1e-6, 0.5 - 1e-6, 0.9])
    scored = ScoredGroup(scores, identities([[3], [3], [3], [7]]), np.zeros(4, dtype=bool))
    found = targets(scored, PreferenceSettings(anchor="out"), 1e-3)
    assert found.pairs.tolist() in ([[-1, 0, 0, 1]], [[0, -1, 0, 1]], [[0, 0, -1, 1]])  # the anchor's alone
    rows = tuple(np.array([-1.0, -2.0]) for _ in range(4))
    reference = tuple(np.array([-1.1, -2.3]) for _ in range(4))
    _, _, gradient = torch_loss(objective, [Group(rows, reference, rows, found)])
    # The rows are one answer, so a model's gradient is their sum.
    np.testing.assert_allclose(gradient[0, :3].sum(axis=0), 0, atol=1e-12)


def with_posteriors(groups: list[Group], value: float) -> list[Group]:
    """The same with one posterior for every candidate."""
    return [replace(g, targets=replace(g.targets, posterior=np.maximum(value, g.targets.anchor))) for g in groups]


def test_pu_dpo_of_negatives_alone_is_spin():
    """Loss and gradient with posteriors of 0; with posteriors of w the group term is 1 - w of it."""
    groups = make_groups(drift=0.5)
    spin, metrics, gradient = torch_loss(Spin(beta=0.3, nll=0.4), groups)
    loss, _, same = torch_loss(PuDpo(beta=0.3, nll=0.4), with_posteriors(groups, 0.0))
    assert loss == pytest.approx(spin, rel=1e-12)
    np.testing.assert_allclose(same, gradient, atol=1e-15)
    _, less, _ = torch_loss(PuDpo(beta=0.3, nll=0.4), with_posteriors(groups, 0.75))
    assert less["pair"] == pytest.approx(0.25 * metrics["pair"], rel=1e-12)


def test_pu_dpo_leaves_a_positive_candidate_alone():
    """Of each group the second candidate is as good as the anchor: all others have a gradient, it has none."""
    groups = with_posteriors(make_groups(drift=0.5), 0.0)
    for group in groups:
        group.targets.posterior[1] = 1
    _, _, gradient = torch_loss(PuDpo(nll=0.0), groups)
    for row, group in zip(per_row(gradient, groups), groups, strict=True):
        moved = (group.targets.member > 0) & (np.arange(len(row)) != 1)
        assert ((row != 0) == moved).all()
        assert row[-1] == pytest.approx(-row[:-1].sum())  # the anchor rises by what the negatives fall


def test_pu_dpo_has_the_gradient_of_positives_over_negatives():
    """The risk is 1 - pi times that of anchors against true negatives (Sakai et al. 2018).

    Two candidates, one positive: with the true posteriors the gradient is half of that of the anchor over the other.
    """
    rng = np.random.default_rng(3)
    logp, reference = (tuple(-rng.exponential(size=n) for n in (3, 5, 2)) for _ in range(2))
    scored = ScoredGroup(np.zeros(3), np.arange(3), np.zeros(3, dtype=bool), posterior=np.array([1.0, 0.0]))
    both = Group(logp, reference, logp, targets(scored, PreferenceSettings(), 1.0))
    alone = ScoredGroup(np.zeros(2), np.arange(2), np.zeros(2, dtype=bool))
    negative = Group(logp[1:], reference[1:], logp[1:], targets(alone, PreferenceSettings(), 1.0))
    _, _, gradient = torch_loss(PuDpo(nll=0.0), [both])
    _, _, expected = torch_loss(Spin(nll=0.0), [negative])
    np.testing.assert_allclose(gradient[0, 1:], expected[0] / 2, atol=1e-15)
    assert not gradient[0, 0].any()


@pytest.mark.parametrize("name", sorted(OBJECTIVES))
def test_split_steps_add_up(name: str):
    """Losses, metrics and gradients of a step's micro-batches are those of the step."""
    groups = make_groups()
    objective = OBJECTIVES[name]()
    loss, metrics, gradient = torch_loss(objective, groups)
    parts = [torch_loss(objective, [g], groups) for g in groups]
    assert sum(p[0] for p in parts) == pytest.approx(loss, rel=1e-12)
    assert {k: sum(p[1][k] for p in parts) for k in metrics} == pytest.approx(metrics, rel=1e-9)
    for g, (_, _, part) in enumerate(parts):
        _, rows, tokens = part.shape
        np.testing.assert_allclose(part[0], gradient[g, :rows, :tokens], atol=1e-14)


@pytest.mark.parametrize("name", sorted(OBJECTIVES))
def test_no_gradient_at_padding(name: str):
    groups = make_groups()
    _, _, gradient = torch_loss(OBJECTIVES[name](), groups)
    for g, group in enumerate(groups):
        for m, row in enumerate(group.logp):
            assert not gradient[g, m, len(row) :].any()
        assert not gradient[g, len(group.logp) :].any()


@pytest.mark.parametrize("name", sorted(OBJECTIVES))
def test_truncated_candidates_get_no_gradient(name: str):
    groups = make_groups()
    _, _, gradient = torch_loss(OBJECTIVES[name](), groups)
    cut = [(g, 0) for g, group in enumerate(groups) if not group.targets.member[0]]
    assert cut
    assert all(not gradient[where].any() for where in cut)


@pytest.mark.parametrize("name", sorted(OBJECTIVES))
def test_a_group_without_members_has_a_finite_loss_and_no_group_term(name: str):
    scored = ScoredGroup(np.array([1.0, 2.0, 3.0]), np.arange(3), np.array([True, True, False]))
    rows = tuple(-np.ones(2) for _ in range(3))
    group = Group(rows, rows, rows, targets(scored, PreferenceSettings(), 1.0))
    loss, _, gradient = torch_loss(OBJECTIVES[name](), [group])
    assert np.isfinite(loss)
    assert not gradient[0, :2].any()
    assert np.isfinite(gradient).all()
