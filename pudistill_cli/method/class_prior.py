"""Class prior and posteriors: the share of candidates as good as the anchor, from positive and unlabeled data.

P are the anchors, U the candidates, both as scorer features. Identity features, such as overlap with the
anchor, give P away and estimate the share of copies instead: never use them.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
DELTA, GAMMA = 0.1, 0.01
"""Confidence and slack of the best-bin bound, as in Garg et al. 2021."""


@dataclass(frozen=True, slots=True)
class Prior:
    """The class prior pi and its 95 % bootstrap interval over prompts."""

    estimate: float
    low: float
    high: float


def class_prior(features_u: Array, features_p: Array, seed: int, resamples: int = 200) -> Prior:
    """Estimate the share of positives in U.

    `features_u` is (N, K, F) of the N prompts' candidates, `features_p` (N, F) of their anchors. A P-versus-U
    classifier is cross-fitted over prompts; its scores go to `best_bin`. The interval resamples prompts.
    """
    u, p = _cross_fitted(features_u, features_p, seed)
    rng = np.random.default_rng(seed)
    n = len(p)
    draws = [best_bin(u[i].ravel(), p[i]) for i in (rng.integers(0, n, n) for _ in range(resamples))]
    low, high = np.quantile(draws, [0.025, 0.975])
    return Prior(best_bin(u.ravel(), p), float(low), float(high))


def best_bin(u: Array, p: Array) -> float:
    """BBE, Garg et al. 2021, alg. 1: q_u(c) / q_p(c) at the threshold c with the least upper bound.

    q(c) is the share of scores of at least c; above the best threshold U holds, nearly, positives alone.
    """
    thresholds = np.unique(p)
    q_p = 1 - np.searchsorted(np.sort(p), thresholds, side="left") / len(p)
    q_u = 1 - np.searchsorted(np.sort(u), thresholds, side="left") / len(u)
    deviation = np.sqrt(np.log(4 / DELTA) / 2) * (len(u) ** -0.5 + (1 + GAMMA) * len(p) ** -0.5)
    best = np.argmin((q_u + deviation) / q_p)
    return float(min(1.0, q_u[best] / q_p[best]))


def posterior(features_u: Array, features_p: Array, prior: float, steps: int = 500) -> Array:
    """P(positive | features) of each candidate (...), features_u (..., F): a linear model with the non-negative risk.

    Kiryo et al. 2017, eq. 6 and alg. 1 (beta 0, gamma 1), logistic loss, full batches, Adam.
    """
    flat_u, flat_p = _standardised(features_u.reshape(-1, features_u.shape[-1]), features_p)
    theta, first, second = (np.zeros(flat_u.shape[1]) for _ in range(3))
    for t in range(1, steps + 1):
        gradient = _nnpu_gradient(theta, flat_u, flat_p, prior)
        first = 0.9 * first + 0.1 * gradient
        second = 0.999 * second + 0.001 * gradient**2
        theta = theta - 0.05 * (first / (1 - 0.9**t)) / (np.sqrt(second / (1 - 0.999**t)) + 1e-8)
    return _sigmoid(flat_u @ theta).reshape(features_u.shape[:-1])


def _nnpu_gradient(theta: Array, u: Array, p: Array, prior: float) -> Array:
    """Gradient of pi R_p+ + max(0, R_u- - pi R_p-); of -(R_u- - pi R_p-) where that is negative."""
    z_u, z_p = u @ theta, p @ theta
    negative = np.logaddexp(0, z_u).mean() - prior * np.logaddexp(0, z_p).mean()
    d_negative = _sigmoid(z_u) @ u / len(u) - prior * _sigmoid(z_p) @ p / len(p)
    if negative < 0:
        return -d_negative
    return d_negative - prior * _sigmoid(-z_p) @ p / len(p)


def _cross_fitted(features_u: Array, features_p: Array, seed: int) -> tuple[Array, Array]:
    """Scores of U (N, K) and P (N,), each by a classifier that did not see its prompt: two folds.

    A single prompt is scored by its own classifier.
    """
    n, k, width = features_u.shape
    u, p = _standardised(features_u.reshape(-1, width), features_p)
    u = u.reshape(n, k, -1)
    fold = np.random.default_rng(seed).permutation(n) % 2
    score_u, score_p = np.zeros((n, k)), np.zeros(n)
    for held_out in np.unique(fold):
        test = fold == held_out
        train = ~test if n > 1 else test
        theta = _logistic(u[train].reshape(-1, u.shape[-1]), p[train])
        score_u[test], score_p[test] = u[test] @ theta, p[test] @ theta
    return score_u, score_p


def _logistic(u: Array, p: Array, iterations: int = 25, ridge: float = 1e-2) -> Array:
    """P versus U with equal total weights, by Newton steps; the ridge keeps separable classes finite."""
    x = np.concatenate([p, u])
    y = np.r_[np.ones(len(p)), np.zeros(len(u))]
    weight = np.r_[np.full(len(p), 0.5 / len(p)), np.full(len(u), 0.5 / len(u))]
    theta = np.zeros(x.shape[1])
    for _ in range(iterations):
        theta += _newton_step(theta, x, y, weight, ridge)
    return theta


def _newton_step(theta: Array, x: Array, y: Array, weight: Array, ridge: float) -> Array:
    probability = _sigmoid(x @ theta)
    gradient: Array = x.T @ (weight * (y - probability)) - ridge * theta
    curvature: Array = (x * (weight * probability * (1 - probability))[:, None]).T @ x
    return np.linalg.solve(curvature + ridge * np.eye(len(theta)), gradient).astype(np.float64)


def _standardised(u: Array, p: Array) -> tuple[Array, Array]:
    """Both by U's mean and deviation, with a column of ones."""
    mean, deviation = u.mean(axis=0), u.std(axis=0) + 1e-9
    ones = np.ones((len(u) + len(p), 1))
    return np.hstack([(u - mean) / deviation, ones[: len(u)]]), np.hstack([(p - mean) / deviation, ones[len(u) :]])


def _sigmoid(z: Array) -> Array:
    return np.exp(-np.logaddexp(0, -z))
