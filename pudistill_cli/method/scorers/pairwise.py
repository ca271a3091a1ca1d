"""`pairwise`: which of two answers is better, every pair in both orders; Bradley-Terry over the group."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import permutations

import numpy as np
from numpy.typing import NDArray

from pudistill_cli.method.scorers import Array, Item, Judge, Scores
from pudistill_cli.method.scorers.reading import ask, mean_over_wordings, read_choices
from pudistill_cli.method.scorers.templates import Templates

RIDGE = 1e-3
"""Weight of the prior theta = 0: keeps strengths finite where an answer wins everything (ours)."""


@dataclass(frozen=True, slots=True)
class Pairwise:
    """The strengths of the answers; K (K - 1) questions an item and wording."""

    asks_model = True
    relative = True

    blind: bool = False
    """Without the anchor: a baseline, and what is left where there is none."""

    @property
    def name(self) -> str:
        """pairwise, marked where it is not the plain one."""
        return "pairwise-blind" if self.blind else "pairwise"

    @property
    def sees_anchor(self) -> bool:
        """Unless it is blind."""
        return not self.blind

    def questions(self, templates: Templates) -> tuple[str, ...]:
        """The blind wording, or the first and the further ones."""
        return (templates.pairwise_blind,) if self.blind else (templates.pairwise, *templates.other_pairwise)

    def score(self, judge: Judge, items: Sequence[Item]) -> Scores:
        """The logits of both orders are averaged: a judge that loves the first place is even on all."""
        for index, first in self.first_wins(judge, items):
            yield index, strengths(first)

    def first_wins(self, judge: Judge, items: Sequence[Item]) -> Scores:
        """Yield (index, (K, K) log-odds that answer i, shown first, beats answer j); 0 on the diagonal.

        The mean over the judge's wordings.
        """
        wordings = self.questions(judge.templates)
        per_wording = (odds for wording in wordings for odds in _log_odds(judge, items, wording))
        return mean_over_wordings(per_wording, len(wordings))


def _log_odds(judge: Judge, items: Sequence[Item], template: str) -> Iterator[tuple[int, Array]]:
    questions = [
        [ask(judge, item, template, first=a.text, second=b.text) for a, b in permutations(item.candidates, 2)]
        for item in items
    ]
    for index, logits in read_choices(judge, questions, judge.templates.pairwise_choices):  # (K (K - 1), 2)
        odds = np.zeros((len(items[index].candidates),) * 2)
        odds[~np.eye(len(odds), dtype=bool)] = logits[:, 0].astype(np.float64) - logits[:, 1]
        yield index, odds


def strengths(first: Array) -> Array:
    """(K,) of the answers, from the (K, K) log-odds of each when shown first: both orders, then Bradley-Terry."""
    return bradley_terry((first - first.T) / 2)


def decided_alike(first: Array) -> NDArray[np.bool_]:
    """(K (K - 1) / 2,) of the pairs, from the (K, K) log-odds of each when shown first: one winner in both orders."""
    upper = np.triu_indices(len(first), 1)
    return (first[upper] > 0) == (first.T[upper] < 0)


def bradley_terry(odds: Array, iterations: int = 50) -> Array:
    """Strengths theta (K,), mean 0, from antisymmetric log-odds (K, K) that i beats j.

    Maximises sum_ij w_ij log sigmoid(theta_i - theta_j), w = sigmoid(odds), by Newton steps (Bradley and
    Terry 1952, with soft wins). Consistent odds theta_i - theta_j are recovered up to the ridge.
    """
    off = ~np.eye(len(odds), dtype=bool)
    wins = off / (1 + np.exp(-np.clip(odds, -30, 30)))
    theta = np.zeros(len(odds))
    for _ in range(iterations):
        step = _newton_step(theta, wins)
        theta += step / max(1.0, float(np.abs(step).max()))
        if np.abs(step).max() < 1e-10:
            break
    return theta - theta.mean()


def _newton_step(theta: Array, wins: Array) -> Array:
    p = 1 / (1 + np.exp(-(theta[:, None] - theta[None, :])))
    np.fill_diagonal(p, 0)
    gradient: Array = (wins - p).sum(axis=1) - RIDGE * theta
    weight = p * (1 - p)
    hessian: Array = np.diag(weight.sum(axis=1) + RIDGE) - weight
    return np.linalg.solve(hessian, gradient).astype(np.float64)
