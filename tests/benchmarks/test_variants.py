"""The objectives of the sweeps, by numbers that can be seen."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from benchmarks.evidence.variants import Credit, FromSft, PerToken
from pudistill_cli.method.batch import stack, step_constants
from pudistill_cli.method.objectives.ldl_grpo import LdlGrpo
from tests.pudistill_cli.method.groups import make_groups, padded_logp


def arrays_and_logp(seed=0):
    groups = make_groups(seed)
    arrays = stack(groups, step_constants(groups), np.float64)
    return arrays, padded_logp(groups, arrays.mask.shape)


def test_log_ratios_a_token_are_the_sum_where_all_answers_are_of_one_length():
    arrays, logp = arrays_and_logp()
    mask = np.ones_like(arrays.mask)
    tokens = mask.shape[-1]
    same = replace(arrays, mask=mask, n_tokens=tokens * arrays.n_members)
    total = ((logp - same.reference) * mask).sum(-1)
    np.testing.assert_allclose(PerToken().moved(np, logp, same), total, rtol=1e-12)


def test_a_long_answer_counts_by_its_mean():
    arrays, logp = arrays_and_logp()
    length = arrays.mask.sum(-1)
    expected = ((logp - arrays.reference) * arrays.mask).sum(-1) / np.maximum(length, 1)
    expected *= arrays.n_tokens / arrays.n_members
    np.testing.assert_allclose(PerToken().moved(np, logp, arrays), expected, rtol=1e-12)


def test_credit_goes_to_the_tokens_that_the_anchor_changes():
    arrays, logp = arrays_and_logp()
    one = np.zeros_like(arrays.divergence)
    one[:, :, 0] = 3.0  # all of the difference is at the first token
    length = arrays.mask.sum(-1)
    moved = Credit(credit=1.0).moved(np, logp, replace(arrays, divergence=one))
    expected = (logp - arrays.reference)[:, :, 0] * arrays.mask[:, :, 0] * length
    np.testing.assert_allclose(moved, expected, rtol=1e-12)


def test_without_credit_or_without_a_difference_it_is_the_default():
    arrays, logp = arrays_and_logp()
    default = LdlGrpo().moved(np, logp, arrays)
    np.testing.assert_allclose(Credit(credit=0.0).moved(np, logp, arrays), default, rtol=1e-12)
    flat = replace(arrays, divergence=np.zeros_like(arrays.divergence))
    np.testing.assert_allclose(Credit(credit=1.0).moved(np, logp, flat), default, rtol=1e-12)


def test_only_the_reference_differs_from_the_default():
    assert (LdlGrpo().reference, FromSft().reference) == ("round", "sft")
    arrays, logp = arrays_and_logp()
    assert FromSft().loss(np, logp, arrays)[0] == LdlGrpo().loss(np, logp, arrays)[0]
