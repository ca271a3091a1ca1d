"""Each loss against plain Python loops over rows and tokens, and the same number in every array library."""

from __future__ import annotations

from dataclasses import replace
from math import exp, log, log1p

import numpy as np
import pytest

from pudistill_cli.method.objectives.dpo import Dpo
from pudistill_cli.method.objectives.grpo import Grpo
from pudistill_cli.method.objectives.ldl_grpo import LdlGrpo
from pudistill_cli.method.objectives.pu_dpo import PuDpo
from pudistill_cli.method.objectives.registry import OBJECTIVES
from pudistill_cli.method.objectives.rft import Rft
from pudistill_cli.method.objectives.spin import Spin
from tests.pudistill_cli.method.groups import Group, make_groups, numpy_loss, padded_logp, step_arrays, torch_loss


def ratios(group: Group) -> list[float]:
    return [float((p - q).sum()) for p, q in zip(group.logp, group.reference, strict=True)]


def softplus(x: float) -> float:
    return max(x, 0) + log1p(exp(-abs(x)))


def test_dpo_by_hand():
    """beta 0.5, r_+ = 0.4, r_- = -0.6: -log sigmoid(0.5) = 0.474077; smoothed by 0.1 it is 0.524077."""
    groups = make_groups(sizes=(2,))
    found = replace(
        groups[0].targets,
        pairs=np.array([[1.0, -1.0, 0.0]]),
        pair_weight=np.ones(1),
        pair_smoothing=np.zeros(1),
    )
    logp = (np.array([-0.3, -0.7]), np.array([-2.0]), np.array([-1.0]))
    reference = (np.array([-0.5, -0.9]), np.array([-1.4]), np.array([-1.0]))
    group = Group(logp, reference, logp, found)
    assert numpy_loss(Dpo(beta=0.5, nll=0.0), [group])[0] == pytest.approx(0.474076984)
    smoothed = replace(group, targets=replace(found, pair_smoothing=np.array([0.1])))
    assert numpy_loss(Dpo(beta=0.5, nll=0.0), [smoothed])[0] == pytest.approx(0.524076984)
    loss, metrics = numpy_loss(Dpo(beta=0.5, nll=0.2), [group])
    assert loss == pytest.approx(0.474076984 + 0.2 * 0.5)
    assert metrics["accuracy"] == 1


def test_dpo_is_the_mean_over_pairs():
    groups = make_groups()
    objective = Dpo(beta=0.3, nll=0.5)
    losses, chosen = [], []
    for group in groups:
        r = ratios(group)
        for pair in group.targets.pairs:
            up, down = int(pair.argmax()), int(pair.argmin())
            losses.append(softplus(-0.3 * (r[up] - r[down])))
            chosen.extend(-group.logp[up])
    assert len(losses) > 3
    assert numpy_loss(objective, groups)[0] == pytest.approx(np.mean(losses) + 0.5 * np.mean(chosen), rel=1e-12)


def test_grpo_is_the_mean_over_member_tokens():
    groups = make_groups(drift=0.4)
    objective = Grpo(eps=0.2, kl=0.05, anchor_nll=0.3)
    terms, anchor, stopped = [], [], 0
    for group in groups:
        rows = zip(group.logp, group.behaviour, group.reference, group.targets.advantage, strict=True)
        for m, (logp, old, reference, advantage) in enumerate(rows):
            if group.targets.anchor[m]:
                anchor.extend(-logp)
            if not group.targets.member[m]:
                continue
            for p, b, q in zip(logp, old, reference, strict=True):
                ratio = exp(p - b)
                clipped = min(max(ratio, 0.8), 1.2)
                stopped += ratio * advantage > clipped * advantage
                terms.append(-min(ratio * advantage, clipped * advantage) + 0.05 * (exp(q - p) - (q - p) - 1))
    loss, metrics = numpy_loss(objective, groups)
    assert loss == pytest.approx(np.mean(terms) + 0.3 * np.mean(anchor), rel=1e-12)
    assert metrics["clipped"] == pytest.approx(stopped / len(terms))
    assert stopped > 3


def test_grpo_weighs_an_earlier_answer_s_clipped_surrogate():
    """rho = e^0.1 and e^0.3, A = 1 and -1, w = 0.5 and 1, no clip below: (-0.5 e^0.1 + 1.2 ... ) over 0.5 + 1 tokens.

    The second row: min(-rho, -clip(rho)) = -e^0.3. Loss: -(0.5 e^0.1 - e^0.3) / 1.5 = 0.531516.
    """
    groups = make_groups(sizes=(2,))
    found = replace(groups[0].targets, member=np.array([0.5, 1.0, 0.0]), advantage=np.array([1.0, -1.0, 0.0]))
    logp = (np.array([-1.0]), np.array([-2.0]), np.array([-1.0]))
    old = (np.array([-1.1]), np.array([-2.3]), np.array([-1.0]))
    group = Group(logp, old, old, found)
    assert numpy_loss(Grpo(kl=0.0), [group])[0] == pytest.approx(0.531516, abs=1e-6)


def test_ldl_grpo_adds_its_three_terms():
    groups = make_groups(drift=0.3)
    kl, nll, k3, members = 0.0, 0.0, 0.0, 0
    for group in groups:
        t, r = group.targets, ratios(group)
        inside = [m for m in range(len(r)) if t.member[m]]
        weight = {m: t.slots[m] * exp(0.3 * r[m]) for m in inside}
        total = sum(weight.values())
        kl += sum(t.label[m] * log(t.label[m] * total / weight[m]) for m in inside)
        nll -= group.logp[-1].sum()
        members += len(inside)
        for m in inside:
            k3 += sum(exp(q - p) - (q - p) - 1 for p, q in zip(group.logp[m], group.reference[m], strict=True))
    loss, metrics = numpy_loss(LdlGrpo(eps=9.0), groups)
    assert metrics == pytest.approx({"group": kl / 3, "nll": nll / 3, "kl": k3 / members, "clipped": 0})
    assert loss == pytest.approx(kl / 3 / 0.3 + 0.3 * nll / 3 + 0.05 * k3 / members, rel=1e-12)


def test_ldl_clip_stops_what_has_moved_far_enough():
    """Per-token ratios 1.5 and 1/1.5: only the rows that go on in that direction lose their gradient."""
    (group,) = make_groups(sizes=(3,), anchor="out")
    moved = [log(1.5), -log(1.5), 0.0, 0.0]
    logp = tuple(-np.ones(n) for n in (2, 3, 2, 1))
    reference = tuple(p - step for p, step in zip(logp, moved, strict=True))
    objective = LdlGrpo(anchor_nll=0.0, kl=0.0)
    for label, stopped in (([0.9, 0.02, 0.08], [True, True, False]), ([0.02, 0.9, 0.08], [False] * 3)):
        found = replace(group.targets, slots=np.ones(4), label=np.array([*label, 0.0]))
        case = Group(logp, reference, logp, found)
        _, metrics, gradient = torch_loss(objective, [case])
        _, _, free = torch_loss(replace(objective, eps=9.0), [case])
        assert metrics["clipped"] == pytest.approx(sum(stopped) / 3)
        assert (gradient[0, :3, 0] == 0).tolist() == stopped
        kept = ~np.array(stopped)
        np.testing.assert_allclose(gradient[0, :3][kept], free[0, :3][kept], atol=1e-12)
        assert free[0, :3, 0].all()


def test_k3_is_capped_where_the_policy_collapsed():
    """A token e^50 below the reference: finite loss, no gradient, no overflow."""
    (group,) = make_groups(sizes=(2,), anchor="out")
    collapsed = tuple(q - 50 for q in group.reference)
    loss, metrics, gradient = torch_loss(LdlGrpo(eps=9.0, anchor_nll=0.0), [replace(group, logp=collapsed)])
    assert np.isfinite(loss)
    assert np.isfinite(gradient).all()
    tokens = sum(len(r) for r in group.logp[:2]) / 2
    assert metrics["kl"] == pytest.approx(tokens * (exp(3.2) - 4.2))


def test_rft_learns_the_best_candidate_never_the_anchor():
    groups = make_groups()
    best = []
    for group in groups:
        advantage = np.where(group.targets.member > 0, group.targets.advantage, -np.inf)[:-1]
        rows = np.flatnonzero(advantage == advantage.max())
        best.append(-np.mean([group.logp[m].sum() for m in rows]))
    assert numpy_loss(Rft(), groups)[0] == pytest.approx(np.mean(best), rel=1e-12)


def test_spin_prefers_the_anchor_to_every_candidate():
    groups = make_groups()
    pair, anchor = [], []
    for group in groups:
        r = ratios(group)
        opponents = [m for m in range(len(r) - 1) if group.targets.member[m]]
        pair.append(np.mean([softplus(-0.1 * (r[-1] - r[m])) for m in opponents]))
        anchor.extend(-group.logp[-1])
    assert numpy_loss(Spin(), groups)[0] == pytest.approx(np.mean(pair) + 0.2 * np.mean(anchor), rel=1e-12)


def test_pu_dpo_by_hand():
    """beta 0.5, r_a = 0.4; r = -0.6 of posterior 0.25, r = 1.4 of 0.9: (0.75 * 0.474077 + 0.1 * 0.974077) / 2."""
    (group,) = make_groups(sizes=(2,))
    found = replace(group.targets, member=np.ones(3), posterior=np.array([0.25, 0.9, 1.0]))
    reference = (np.array([-0.5, -0.9]), np.array([-1.4]), np.array([-1.0]))
    logp = tuple(q + r / len(q) for q, r in zip(reference, (-0.6, 1.4, 0.4), strict=True))
    loss, metrics = numpy_loss(PuDpo(beta=0.5, nll=0.2), [Group(logp, reference, logp, found)])
    assert metrics == pytest.approx({"pair": 0.226482716, "nll": 0.6, "negative": 0.425})
    assert loss == pytest.approx(0.226482716 + 0.2 * 0.6)


def test_pu_dpo_weighs_each_opponent_by_being_a_negative():
    groups = make_groups()
    pair, anchor, negative = [], [], []
    for group in groups:
        r, w = ratios(group), group.targets.posterior
        opponents = [m for m in range(len(r) - 1) if group.targets.member[m]]
        pair.append(np.mean([(1 - w[m]) * softplus(-0.3 * (r[-1] - r[m])) for m in opponents]))
        negative.extend(1 - w[m] for m in opponents)
        anchor.extend(-group.logp[-1])
    loss, metrics = numpy_loss(PuDpo(beta=0.3, nll=0.5), groups)
    assert loss == pytest.approx(np.mean(pair) + 0.5 * np.mean(anchor), rel=1e-12)
    assert metrics["negative"] == pytest.approx(np.mean(negative), rel=1e-12)


@pytest.mark.parametrize("name", sorted(OBJECTIVES))
@pytest.mark.parametrize("drift", [0.0, 0.1, 1.0])
def test_numpy_equals_torch(name: str, drift: float):
    groups = make_groups(seed=5, drift=drift)
    objective = OBJECTIVES[name]()
    loss, metrics = numpy_loss(objective, groups)
    torch_value, torch_metrics, _ = torch_loss(objective, groups)
    assert torch_value == pytest.approx(loss, rel=1e-12, abs=1e-12)
    assert torch_metrics == pytest.approx(metrics, rel=1e-12, abs=1e-12)


@pytest.mark.parametrize("name", sorted(OBJECTIVES))
def test_torch_gradient_equals_numpy_differences(name: str):
    groups = make_groups(seed=2, sizes=(3, 4))
    objective = OBJECTIVES[name]()
    _, _, gradient = torch_loss(objective, groups)
    logp = padded_logp(groups, gradient.shape)
    step = 1e-6
    for where in np.ndindex(*gradient.shape):
        up, down = logp.copy(), logp.copy()
        up[where] += step
        down[where] -= step
        slope = (numpy_loss(objective, groups, up)[0] - numpy_loss(objective, groups, down)[0]) / (2 * step)
        if name == "ldl-grpo" and slope != pytest.approx(gradient[where], abs=1e-7):
            assert gradient[where] == 0  # stopped by the clip, which differences do not see
            continue
        assert gradient[where] == pytest.approx(slope, abs=1e-7)


@pytest.mark.parametrize("name", sorted(OBJECTIVES))
def test_mlx_equals_numpy(name: str):
    mx = pytest.importorskip("mlx.core", reason="needs mlx: pip install 'pudistill[mlx]'")
    groups = make_groups(seed=5)
    objective = OBJECTIVES[name]()
    arrays = step_arrays(groups, dtype=np.float32).convert(mx.array)
    loss, metrics = objective.loss(mx, mx.array(padded_logp(groups, arrays.mask.shape).astype(np.float32)), arrays)
    expected, expected_metrics = numpy_loss(objective, groups)
    assert loss.item() == pytest.approx(expected, rel=1e-4)
    assert {k: v.item() for k, v in metrics.items()} == pytest.approx(expected_metrics, rel=1e-4, abs=1e-5)
