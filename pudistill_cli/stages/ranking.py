"""Ranking: the frozen judge scores a round's groups, the scores become preferences, the class prior is estimated."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import NDArray

from pudistill_cli.contract import Floats, Tokens
from pudistill_cli.evaluate import components, item_of
from pudistill_cli.job import Job
from pudistill_cli.method.preferences import (
    PreferenceSettings,
    ScoredGroup,
    Targets,
    group_scale,
    identities,
    round_targets,
    run_deviation,
)
from pudistill_cli.method.pu import Prior, class_prior
from pudistill_cli.method.scorers import Array, Scorer
from pudistill_cli.method.scorers.agreement import agreement_weights
from pudistill_cli.method.scorers.ensemble import combine
from pudistill_cli.stages.anchors import Anchored
from pudistill_cli.stages.candidates import CandidateGroup


@dataclass(frozen=True, slots=True)
class RankedGroup:
    """A group and what the objective is told about it; rows are the candidates, then the anchor."""

    anchored: Anchored
    rows: tuple[Tokens, ...]
    drawn: tuple[Floats, ...]
    """Per candidate (T,): log-probs by the sampler."""
    targets: Targets


@dataclass(frozen=True, slots=True)
class Ranked:
    """A round's groups, and the estimated share of candidates that are as good as the anchor."""

    groups: list[RankedGroup]
    prior: Prior
    nothing_to_learn: bool
    """The prior is above `prefer.prior_stop`, or every candidate was cut off."""


def rank_candidates(job: Job, scorer: Scorer, groups: list[CandidateGroup], number: int) -> Ranked:
    """Score, standardise, and turn into preferences; scores in the ledger are not computed again."""
    parts = components(scorer)
    raw = [score_groups(job, part, groups, number) for part in parts]  # per scorer, per group (K + 1,)
    weights = agreement_weights(raw) if job.recipe.rank.weighting == "agreement" else None
    total = combine(raw, weights) if len(parts) > 1 else raw[0]
    scored = [_scored_group(group, total[i], [scores[i] for scores in raw]) for i, group in enumerate(groups)]
    prefer = job.recipe.prefer
    settings = PreferenceSettings(
        tau=prefer.tau, anchor="score" if prefer.anchor_in_group else "out", margin=prefer.margin
    )
    targets = round_targets(scored, settings)
    ranked = [
        RankedGroup(
            g.anchored,
            (*(c.tokens for c in g.candidates), g.anchored.answer_tokens),
            tuple(c.logprobs for c in g.candidates),
            t,
        )
        for g, t in zip(groups, targets, strict=True)
    ]
    deviation = run_deviation(scored, settings)
    for group, found, target in zip(groups, scored, targets, strict=True):
        scale = group_scale(found.scores[target.member > 0], deviation) if target.member.any() else 0.0
        job.ledger.add_targets(number, group.anchored.prompt.key, scorer.name, target, scale)
    prior = _prior(job, [scores for part, scores in zip(parts, raw, strict=True) if part.model], number)
    if all_cut_off := not any(t.member.any() for t in targets):
        job.console.warn(f"Round {number}: no candidate came to an end, so the rounds end here.")
    return Ranked(ranked, prior, all_cut_off or prior.estimate > prefer.prior_stop)


def score_groups(job: Job, scorer: Scorer, groups: list[CandidateGroup], number: int) -> list[Array]:
    """Per group (K + 1,): the candidates' scores, then the anchor's."""
    held = {
        key: np.append(scores.candidates, scores.anchor)
        for key, scores in job.ledger.scores(number, scorer.name).items()
        if scores.anchor is not None
    }
    # The last bits of a score depend on what it was computed together with, so a half-done round is done again whole.
    missing = groups if any(g.anchored.prompt.key not in held for g in groups) else []
    if missing:
        items = [
            item_of(
                g.anchored,
                [
                    *((c.tokens, job.decode(g.anchored.prompt_tokens, c.tokens)) for c in g.candidates),
                    _anchor(g),
                ],
            )
            for g in missing
        ]
        with job.console.bar(f"round {number}: {scorer.name}", len(groups)) as bar:
            for index, scores in scorer.score(job.judge(), items):
                key = missing[index].anchored.prompt.key
                job.ledger.add_scores(number, key, scorer.name, scores[:-1], float(scores[-1]))
                held[key] = scores
                bar.advance()
    return [held[g.anchored.prompt.key] for g in groups]


def _anchor(group: CandidateGroup) -> tuple[Tokens, str]:
    return group.anchored.answer_tokens, group.anchored.answer


def _scored_group(group: CandidateGroup, total: Array, votes: list[Array]) -> ScoredGroup:
    return ScoredGroup(
        scores=total,
        identity=identities([*(c.tokens for c in group.candidates), group.anchored.answer_tokens]),
        truncated=np.array([*(c.finish == "length" for c in group.candidates), False]),
        votes=np.stack(votes) if len(votes) > 1 else None,
    )


def _prior(job: Job, raw: list[list[Array]], number: int) -> Prior:
    """The class prior of the round; recorded, and warned about when low.

    Features are the model scorers' raw scores: a string scorer's give the anchor away (method/pu.py).
    """
    if not raw:
        return Prior(math.nan, math.nan, math.nan)
    features: NDArray[np.float64] = np.stack([np.stack(scores) for scores in raw], axis=-1)  # (N, K + 1, F)
    prior = class_prior(features[:, :-1], features[:, -1], seed=job.recipe.seed)
    job.metrics("prefer", number, 0, {f"class_prior_{k}": v for k, v in asdict(prior).items()})
    prefer = job.recipe.prefer
    line = f"round {number}: about {prior.estimate:.0%} of the candidates are as good as the anchor"
    if prior.estimate < prefer.prior_start:
        job.console.warn(f"{line}; below {prefer.prior_start:.0%} ranking has little to find. More SFT may be better.")
    elif prior.estimate > prefer.prior_stop:
        job.console.say(f"{line}; above {prefer.prior_stop:.0%} there is nothing left to rank: the rounds end here.")
    else:
        job.console.say(f"{line} [{prior.low:.0%}, {prior.high:.0%}]")
    return prior
