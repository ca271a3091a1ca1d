"""Padding carries no weight, and a step's constants count the whole step."""

from __future__ import annotations

import numpy as np

from pudistill_cli.method.batch import stack, step_constants
from pudistill_cli.method.preferences import Targets
from tests.pudistill_cli.method.groups import Group, make_groups


def hand_made() -> list[Group]:
    def rows(*lengths: int) -> tuple[np.ndarray, ...]:
        return tuple(np.full(n, -float(n)) for n in lengths)

    small = Targets(
        member=np.array([1.0, 1.0]),
        anchor=np.array([0.0, 1.0]),
        slots=np.ones(2),
        label=np.array([0.25, 0.75]),
        advantage=np.array([-1.0, 1.0]),
        posterior=np.array([0.3, 1.0]),
        pairs=np.array([[-1.0, 1.0]]),
        pair_weight=np.ones(1),
        pair_smoothing=np.zeros(1),
    )
    large = Targets(
        member=np.array([1.0, 0.0, 0.0]),
        anchor=np.array([0.0, 0.0, 1.0]),
        slots=np.ones(3),
        label=np.array([1.0, 0.0, 0.0]),
        advantage=np.zeros(3),
        posterior=np.array([0.0, 0.5, 1.0]),
        pairs=np.zeros((0, 3)),
        pair_weight=np.zeros(0),
        pair_smoothing=np.zeros(0),
    )
    return [
        Group((), rows(2, 3), rows(2, 3), small),
        Group((), rows(1, 4, 2), rows(1, 4, 2), large),
    ]


def test_step_constants_by_hand():
    found = step_constants(hand_made())
    assert (found.n_groups, found.n_members, found.n_tokens) == (2, 3, 6)
    assert found.n_candidates == 2  # neither the anchor that is a member nor the row that is none
    assert (found.n_anchor_tokens, found.n_pairs, found.n_chosen_tokens) == (5, 1, 3)


def test_padding_is_masked_and_of_no_weight():
    groups = hand_made()
    arrays = stack(groups, step_constants(groups))
    assert arrays.reference.shape == (2, 3, 4)
    assert arrays.reference.dtype == np.float32
    assert arrays.mask.sum(axis=-1).tolist() == [[2, 3, 0], [1, 4, 2]]
    assert not (arrays.reference * (1 - arrays.mask)).any()
    for name in ("member", "anchor", "slots", "label", "advantage", "posterior"):
        assert getattr(arrays, name)[0, 2] == 0
    np.testing.assert_allclose(arrays.posterior, [[0.3, 1, 0], [0, 0.5, 1]], rtol=1e-7)
    assert arrays.pairs.shape == (2, 1, 3)
    assert arrays.pair_weight.tolist() == [[1], [0]]


def test_a_micro_batch_keeps_the_steps_constants():
    groups = make_groups()
    constants = step_constants(groups)
    part = stack(groups[:1], constants)
    assert (part.n_groups, part.n_tokens) == (constants.n_groups, constants.n_tokens)
    assert part.mask.shape[0] == 1
    converted = part.convert(lambda a: a.shape)
    assert converted.pairs == part.pairs.shape
    assert converted.n_groups == 3
