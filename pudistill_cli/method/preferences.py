"""From scores to preferences: centred scores, label distributions, advantages and DPO pairs.

A group's M rows are its K candidates, then its anchor. Formulas: docs/method.md, "Preferences" (ours).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Targets:
    """What an objective is told about one group of M rows (candidates first, the anchor last)."""

    member: Array
    """(M,) how much the row counts in the group term: 0 for truncated candidates, less than 1 for answers of earlier
    rounds (`ScoredGroup.weight`), 1 for the others."""
    anchor: Array
    """(M,) 1 at the anchor's row."""
    slots: Array
    """(M,) weight / multiplicity: duplicate candidates share one slot."""
    label: Array
    """(M,) label distribution d; sums to 1 over the members, 0 elsewhere."""
    advantage: Array
    """(M,) centred, scaled scores; 0 for non-members."""
    posterior: Array
    """(M,) probability of being as good as the anchor (`class_prior.posterior`); 1 at the anchor and its copies."""
    pairs: Array
    """(P, M) one row a pair: +1 at the chosen, -1 at the rejected row."""
    pair_weight: Array
    """(P,) weight of each pair."""
    pair_smoothing: Array
    """(P,) label smoothing of each pair, in [0, 0.5)."""


@dataclass(frozen=True, slots=True)
class PreferenceSettings:
    """How scores become preferences."""

    tau: float = 0.5
    """Temperature of the label distribution, in units of the scaled scores."""
    anchor: Literal["score", "best", "out"] = "score"
    """A member by its own score, by the best candidate's plus a quarter of the run's deviation, or none."""
    margin: float = 0.3
    """Least difference of scaled scores for the pair best over worst."""
    smoothing: float = 0.4
    """Most label smoothing a pair can get from disagreeing scorers."""


@dataclass(frozen=True, slots=True)
class ScoredGroup:
    """A group as the scorer left it; every array's last entry is the anchor's."""

    scores: Array
    """(M,) higher is better."""
    identity: NDArray[np.int64]
    """(M,) equal numbers for equal answers: `identities`."""
    truncated: NDArray[np.bool_]
    """(M,) cut off at the token limit; never the anchor."""
    votes: Array | None = None
    """(S, M) scores by S scorers, whose disagreement smooths the pairs."""
    posterior: Array | None = None
    """(M - 1,) of the candidates, by `class_prior.posterior`; without it, only the anchor's copies are positive."""
    weight: Array | None = None
    """(M,) in [0, 1]: importance weights of answers of earlier rounds, 1 for the others; None is 1 for all."""


def identities(answers: Sequence[Sequence[int]]) -> NDArray[np.int64]:
    """Number the distinct token sequences among a group's rows in order of appearance: (M,)."""
    seen: dict[tuple[int, ...], int] = {}
    return np.array([seen.setdefault(tuple(a), len(seen)) for a in answers], dtype=np.int64)


def run_deviation(groups: Sequence[ScoredGroup], settings: PreferenceSettings) -> float:
    """Standard deviation of all groups' scores around their group's mean, over the scored members."""
    centred = [s - s.mean() for g in groups if (s := _shared_scores(g)[_scored(g, settings)]).size]
    return float(np.concatenate(centred).std()) if centred else 0.0


def group_scale(scores: Array, run_deviation: float) -> float:
    """The divisor of a group's scores (K,): the larger of its own deviation and half the run's."""
    return max(float(scores.std()), run_deviation / 2)


def center(scores: Array, run_deviation: float) -> Array:
    """Scores (K,) minus their mean, over `group_scale`; zeros where nothing differs."""
    scale = group_scale(scores, run_deviation)
    if scale <= 1e-12 * (1 + abs(float(scores.mean()))):
        return np.zeros_like(scores)
    return (scores - scores.mean()) / scale


def round_targets(groups: Sequence[ScoredGroup], settings: PreferenceSettings) -> list[Targets]:
    """Targets of a round's groups, scaled by their common deviation."""
    deviation = run_deviation(groups, settings)
    return [targets(group, settings, deviation) for group in groups]


def targets(group: ScoredGroup, settings: PreferenceSettings, run_deviation: float) -> Targets:
    """Label distribution, advantages and pairs of one group.

    d_i = softmax_i(z_i / tau + log slots_i) over the members, z the centred and scaled scores. A group whose
    candidates were all truncated has no members.
    """
    rows = len(group.scores)
    counts = np.ones(rows) if group.weight is None else group.weight
    member = ~group.truncated & (counts > 0)
    member[-1] = settings.anchor != "out" and bool(member[:-1].any())
    scores = _shared_scores(group)
    if settings.anchor == "best" and member[-1]:
        scores[-1] = scores[:-1][member[:-1]].max() + run_deviation / 4
    advantage, slots, label = np.zeros(rows), np.ones(rows), np.zeros(rows)
    pairs, smoothing = np.zeros((0, rows)), np.zeros(0)
    if member.any():
        advantage[member] = center(scores[member], run_deviation)
        same = group.identity[member, None] == group.identity[None, member]
        slots[member] = counts[member] / same.sum(axis=1)
        weight = slots[member] * np.exp((advantage[member] - advantage[member].max()) / settings.tau)
        label[member] = weight / weight.sum()
        pairs = _pairs(group, member, advantage, settings.margin)
        smoothing = _disagreement(pairs, group.votes, settings.smoothing)
    anchor = np.zeros(rows)
    anchor[-1] = 1
    return Targets(
        member=member * counts,
        anchor=anchor,
        slots=slots,
        label=label,
        advantage=advantage,
        posterior=_posterior(group),
        pairs=pairs,
        pair_weight=np.ones(len(pairs)),
        pair_smoothing=smoothing,
    )


def _scored(group: ScoredGroup, settings: PreferenceSettings) -> NDArray[np.bool_]:
    """(M,) the rows whose own score counts."""
    scored = ~group.truncated
    scored[-1] = settings.anchor == "score" and bool(scored[:-1].any())
    return scored


def _shared_scores(group: ScoredGroup) -> Array:
    """(M,) equal candidates get their mean score: an engine's rounding is no preference."""
    scores = group.scores.astype(np.float64)
    for number in np.unique(group.identity[:-1]):
        same = group.identity[:-1] == number
        scores[:-1][same] = scores[:-1][same].mean()
    return scores


def _posterior(group: ScoredGroup) -> Array:
    """(M,) as the group has it, and 1 at every row that is the anchor."""
    known = np.zeros(len(group.scores))
    if group.posterior is not None:
        known[:-1] = group.posterior
    return np.where(group.identity == group.identity[-1], 1.0, known)


def _pairs(group: ScoredGroup, member: NDArray[np.bool_], advantage: Array, margin: float) -> Array:
    """(P, M) the anchor over the worst candidate; the best over the worst where they differ by `margin`."""
    candidates = np.flatnonzero(member[:-1])
    if not len(candidates):
        return np.zeros((0, len(member)))
    worst, best = candidates[advantage[candidates].argmin()], candidates[advantage[candidates].argmax()]
    chosen: list[int] = []
    if group.identity[worst] != group.identity[-1]:
        chosen.append(len(member) - 1)
    if advantage[best] - advantage[worst] > margin:
        chosen.append(int(best))
    pairs = np.zeros((len(chosen), len(member)))
    pairs[np.arange(len(chosen)), chosen] = 1
    pairs[:, worst] = -1
    return pairs


def _disagreement(pairs: Array, votes: Array | None, most: float) -> Array:
    """(P,) the share of scorers that order a pair the other way (a tie is half), at most `most`."""
    if votes is None:
        return np.zeros(len(pairs))
    against = (1 - np.sign(votes @ pairs.T)) / 2  # (S, P)
    return np.minimum(against.mean(axis=0), most)
