"""The class prior on data whose prior is known: two features, Gaussian, the positives shifted."""

from __future__ import annotations

import numpy as np
import pytest

from pudistill_cli.method.class_prior import best_bin, class_prior, posterior


def sample(prior: float, seed: int, shift: float = 3.0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Features of U (300, 4, 2) and P (300, 2), and which of U are positive: exactly the prior's share."""
    rng = np.random.default_rng(seed)
    positive = rng.permutation(1200) < round(1200 * prior)
    move = np.array([shift, shift / 2])
    u = rng.normal(size=(1200, 2)) + positive[:, None] * move
    return u.reshape(300, 4, 2), rng.normal(size=(300, 2)) + move, positive.reshape(300, 4)


@pytest.mark.parametrize("prior", [0.1, 0.3, 0.5, 0.7, 0.9])
@pytest.mark.parametrize("seed", [0, 1])
def test_prior_is_found(prior: float, seed: int):
    u, p, _ = sample(prior, seed)
    found = class_prior(u, p, seed)
    assert found.estimate == pytest.approx(prior, abs=0.1)
    assert 0 <= found.low <= found.estimate <= found.high + 0.02 <= 1.02


def test_estimate_does_not_depend_on_scale_or_a_useless_feature():
    u, p, _ = sample(0.5, 3)
    found = class_prior(u, p, 0)
    assert class_prior(u * 1e3 - 7, p * 1e3 - 7, 0).estimate == pytest.approx(found.estimate, abs=0.02)
    constant = class_prior(np.concatenate([u, np.ones((300, 4, 1))], -1), np.c_[p, np.ones(300)], 0)
    assert constant.estimate == pytest.approx(found.estimate, abs=0.02)


def test_candidates_like_the_anchors_give_a_prior_near_one():
    u, p, _ = sample(1.0, 4)
    assert class_prior(u, p, 0).estimate > 0.85


@pytest.mark.parametrize("prompts", [1, 2, 3])
def test_a_handful_of_prompts_is_no_error(prompts: int):
    u, p, _ = sample(0.5, 6)
    found = class_prior(u[:prompts], p[:prompts], 0)
    assert 0 <= found.low <= found.high <= 1


def test_best_bin_by_hand():
    """Half of U lies where P lies, the other half far below: every threshold in P's range keeps half of U."""
    p = np.arange(1000) / 1000
    u = np.concatenate([p + 1e-9, p - 10])
    assert best_bin(u, p) == pytest.approx(0.5)
    assert best_bin(u + 20, p) == 1


@pytest.mark.parametrize("prior", [0.2, 0.6])
def test_posterior_tells_positives_apart(prior: float):
    u, p, positive = sample(prior, 5)
    found = posterior(u, p, prior)
    assert found.shape == (300, 4)
    assert ((found > 0) & (found < 1)).all()
    assert ((found > 0.5) == positive).mean() > 0.9
    assert found.mean() == pytest.approx(prior, abs=0.12)


def test_posteriors_keep_the_shape_of_the_candidates():
    """Groups of unequal size go in as one list."""
    u, p, _ = sample(0.5, 7)
    flat = posterior(u.reshape(-1, 2), p, 0.5)
    assert flat.shape == (1200,)
    assert flat.tolist() == posterior(u, p, 0.5).ravel().tolist()
