"""The distillation term: which tokens it counts, in sdft and beside LDL-GRPO's own terms."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from pudistill_cli.method.objectives.ldl_grpo import LdlGrpo
from pudistill_cli.method.objectives.registry import OBJECTIVES
from pudistill_cli.method.objectives.sdft import Sdft
from tests.pudistill_cli.method.groups import Group, make_groups, numpy_loss, padded_logp, step_arrays, torch_loss


def candidates(group: Group) -> list[int]:
    """Rows that are members and no anchor: all that came to an end."""
    return [m for m in range(len(group.logp) - 1) if group.targets.member[m]]


def mean_divergence(groups: list[Group]) -> float:
    return float(np.mean([group.divergence[m].sum() for group in groups for m in candidates(group)]))


def test_only_sdft_and_a_weighted_ldl_grpo_distil():
    assert {name for name, objective in OBJECTIVES.items() if objective().distils} == {"sdft"}
    assert LdlGrpo(distil=0.5).distils


def test_sdft_by_hand():
    """One candidate of divergences 0.2 and 0.4, an anchor of NLL 3: 0.6 + 0.5 * 3, whatever the anchor diverges by."""
    (group,) = make_groups(sizes=(1,))
    targets = replace(group.targets, member=np.ones(2), anchor=np.array([0.0, 1.0]))
    rows = (np.array([-1.0, -1.0]), np.array([-3.0]))
    hand = Group(rows, rows, rows, targets, (np.array([0.2, 0.4]), np.array([7.0])))
    loss, metrics = numpy_loss(Sdft(anchor_nll=0.5), [hand])
    assert loss == pytest.approx(0.6 + 0.5 * 3)
    assert metrics == pytest.approx({"distil": 0.6, "nll": 3.0, "kl": 0.0})


def test_sdft_is_the_mean_over_candidates_that_came_to_an_end():
    groups = make_groups(drift=0.3)
    assert any(len(candidates(group)) < len(group.logp) - 1 for group in groups)
    nll = np.mean([-group.logp[-1].sum() for group in groups])
    k3 = [
        (np.exp(q - p) - (q - p) - 1).sum()
        for group in groups
        for p, q, member in zip(group.logp, group.reference, group.targets.member, strict=True)
        if member
    ]
    expected = mean_divergence(groups) + 0.3 * nll + 0.1 * np.mean(k3)
    assert numpy_loss(Sdft(kl=0.1), groups)[0] == pytest.approx(expected, rel=1e-12)


def test_the_gradient_by_divergence_is_one_over_the_candidates_of_the_step():
    torch = pytest.importorskip("torch")
    groups = make_groups()
    arrays = step_arrays(groups).convert(torch.from_numpy)
    divergence = arrays.divergence.requires_grad_()
    logp = torch.from_numpy(padded_logp(groups, arrays.mask.shape))
    loss, _ = Sdft().loss(torch, logp, replace(arrays, divergence=divergence))
    loss.backward()
    expected, count = np.zeros(arrays.mask.shape), sum(len(candidates(group)) for group in groups)
    for g, group in enumerate(groups):
        for m in candidates(group):
            expected[g, m, : len(group.logp[m])] = 1 / count
    np.testing.assert_allclose(divergence.grad.numpy(), expected, atol=1e-15)


def test_ldl_grpo_adds_it_by_its_weight_and_is_untouched_without():
    groups = make_groups(drift=0.3)
    plain, metrics = numpy_loss(LdlGrpo(), groups)
    loss, more = numpy_loss(LdlGrpo(distil=0.7), groups)
    assert loss == pytest.approx(plain + 0.7 * mean_divergence(groups), rel=1e-12)
    assert more == metrics | {"distil": pytest.approx(mean_divergence(groups), rel=1e-12)}
    without = [replace(group, divergence=()) for group in groups]
    assert numpy_loss(LdlGrpo(), without) == (plain, metrics)


@pytest.mark.parametrize("objective", [Sdft(kl=0.1), LdlGrpo(distil=0.7)], ids=lambda o: o.name)
def test_micro_batches_add_up(objective: Sdft | LdlGrpo):
    groups = make_groups(drift=0.3)
    parts = [torch_loss(objective, [group], groups) for group in groups]
    assert sum(loss for loss, *_ in parts) == pytest.approx(torch_loss(objective, groups)[0], rel=1e-12)
