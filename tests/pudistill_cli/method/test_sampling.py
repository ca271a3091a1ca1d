"""Uniforms are a pure function of their names; draws follow the truncated distribution, in token-id order."""

from __future__ import annotations

import numpy as np
import pytest

from pudistill_cli.method.sampling import draw, uniforms

LOG_P = np.log(np.array([[0.1, 0.4, 0.2, 0.3]])).astype(np.float32)


def test_uniforms_are_counter_based():
    long = uniforms(3, 1, "key", 2, 50)
    assert np.array_equal(uniforms(3, 1, "key", 2, 7), long[:7])
    assert long.dtype == np.float64
    assert ((long >= 0) & (long < 1)).all()
    others = [uniforms(4, 1, "key", 2, 7), uniforms(3, 2, "key", 2, 7), uniforms(3, 1, "kez", 2, 7)]
    assert all(not np.isin(o, long).any() for o in [*others, uniforms(3, 1, "key", 3, 7)])
    assert not np.isin(uniforms(31, 1, "key", 2, 7), uniforms(3, 11, "key", 2, 7)).any()


def test_uniforms_never_change():
    """A run that is resumed after an upgrade draws the same candidates."""
    assert uniforms(0, 0, "", 0, 2).tolist() == [0.6897414033952312, 0.35944482305755354]


def test_inverse_cdf_in_token_order():
    u = np.array([0.0, 0.05, 0.0999, 0.1001, 0.49, 0.51, 0.69, 0.71, 1 - 2.0**-53])
    tokens, logprobs = draw(np.repeat(LOG_P, len(u), axis=0), u, 1.0, 1.0, 0)
    assert tokens.tolist() == [0, 0, 0, 1, 1, 2, 2, 3, 3]
    np.testing.assert_allclose(logprobs, LOG_P[0, tokens], rtol=1e-6)


def test_temperature_sharpens():
    """p^2: .01, .16, .04, .09 over .3."""
    tokens, logprobs = draw(LOG_P, np.array([0.99]), 0.5, 1.0, 0)
    assert tokens.tolist() == [3]
    assert logprobs[0] == pytest.approx(np.log(0.09 / 0.3), rel=1e-6)


@pytest.mark.parametrize(
    ("top_p", "top_k", "kept"),
    [
        (1.0, 2, {1: 4 / 7, 3: 3 / 7}),
        (0.69, 0, {1: 4 / 7, 3: 3 / 7}),
        (0.72, 0, {1: 4 / 9, 2: 2 / 9, 3: 3 / 9}),
    ],
)
def test_truncation(top_p: float, top_k: int, kept: dict[int, float]):
    u = (np.arange(200) + 0.5) / 200
    tokens, logprobs = draw(np.repeat(LOG_P, 200, axis=0), u, 1.0, top_p, top_k)
    assert set(tokens.tolist()) == set(kept)
    np.testing.assert_allclose(logprobs, np.log([kept[t] for t in tokens]), rtol=1e-5)
    assert np.array_equal(tokens, np.sort(tokens))


def test_greedy_takes_the_models_own_logprob():
    tokens, logprobs = draw(np.array([[1.0, 3.0, 3.0]], dtype=np.float32), np.array([0.9]), 0.0, 0.5, 1)
    assert tokens.tolist() == [1]
    assert logprobs[0] == pytest.approx(3 - np.log(np.exp(1) + 2 * np.exp(3)), rel=1e-6)


def test_impossible_tokens_are_never_drawn():
    logits = np.array([[-np.inf, 0.0, -np.inf]], dtype=np.float32)
    for u in (0.0, 1 - 2.0**-53):
        assert draw(logits, np.array([u]), 1.0, 1.0, 0)[0].tolist() == [1]
