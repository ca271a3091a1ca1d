"""Ranking: the frozen judge scores a round's groups, and the scores become preferences."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from pudistill_cli.errors import TrainingError
from pudistill_cli.method.preferences import (
    PreferenceSettings,
    ScoredGroup,
    Targets,
    group_scale,
    identities,
    round_targets,
    run_deviation,
)
from pudistill_cli.method.scorers import Array, Scorer
from pudistill_cli.method.scorers.agreement import agreement_weights
from pudistill_cli.method.scorers.ensemble import combine
from pudistill_cli.run.context import Job, shown_as
from pudistill_cli.run.ledger_groups import GroupScores
from pudistill_cli.run.marks import Mark
from pudistill_cli.run.rollouts import Rollout, of_round
from pudistill_cli.stages.anchors import Anchored
from pudistill_cli.stages.candidates import CandidateGroup
from pudistill_cli.stages.class_prior import Decision, as_unlabeled
from pudistill_cli.stages.ending import Ending, Reason
from pudistill_cli.stages.evaluator import components, item_of
from pudistill_cli.stages.group_signal import signal_of, tell_signal
from pudistill_cli.stages.reuse import with_earlier
from pudistill_cli.types import Floats, Tokens


@dataclass(frozen=True, slots=True)
class RankedGroup:
    """A group and the preferences made of it; rows are `CandidateGroup.answers`, then the anchor."""

    anchored: Anchored
    rows: tuple[Tokens, ...]
    drawn: tuple[Floats, ...]
    """Per candidate of the round (T,): log-probs by the sampler."""
    targets: Targets


@dataclass(frozen=True, slots=True)
class Ranked:
    """A round's groups, and whether they are trained on."""

    number: int
    groups: list[RankedGroup]
    decision: Decision | Literal["all cut off", "no signal"]
    """By the class prior (class_prior.py), or by there being nothing to rank (group_signal.py); the ledger has it as
    `round-N/prior`."""

    @property
    def ending(self) -> Ending | None:
        """The end of the rounds, where nothing is trained from here on."""
        return None if self.decision == "train" else Ending.of(Reason.named(self.decision), self.number - 1)


@shown_as("ranking")
def rank_candidates(job: Job, scorer: Scorer, groups: list[CandidateGroup], number: int) -> Ranked:
    """Score, standardise, and turn into preferences; scores in the ledger are not computed again."""
    groups = with_earlier(job, groups, number)
    parts = components(scorer)
    raw = [scores_of_rows(job, part, groups, number) for part in parts]  # per scorer, per group (M,)
    unlabeled = as_unlabeled(job, parts, raw, groups, number)
    scored = scored_groups(job, groups, raw, unlabeled.posteriors)
    settings = preference_settings(job)
    targets = round_targets(scored, settings)
    ranked = [
        RankedGroup(
            g.anchored,
            (*(c.tokens for c in g.answers), g.anchored.answer_tokens),
            tuple(c.logprobs for c in g.candidates),
            t,
        )
        for g, t in zip(groups, targets, strict=True)
    ]
    deviation = run_deviation(scored, settings)
    for group, scored_group, target in zip(groups, scored, targets, strict=True):
        scale = group_scale(scored_group.scores[target.member > 0], deviation) if target.member.any() else 0.0
        job.ledger.add_targets(number, group.anchored.prompt.key, scorer.name, target, scale)
    signal = signal_of(scored, targets)
    decision = unlabeled.decision if signal.groups else "all cut off"
    if decision == "all cut off":
        job.console.warn(
            f"Round {number}: no candidate came to an end, so the rounds end here. If more room does not help "
            f"(prefer.max_new_tokens={2 * job.max_new_tokens}), the student has not learned to end its turn: more SFT "
            "(sft.epochs), or a chat template that ends answers as the anchors end."
        )
    elif decision == "train" and job.recipe.train.objective.ranks:
        tell_signal(job, signal, number)
        decision = "no signal" if signal.none else decision
    job.ledger.begin_stage(Mark.ROUND_PRIOR(number))
    job.ledger.finish_stage(Mark.ROUND_PRIOR(number), {"decision": decision})
    return Ranked(number, ranked, decision)


def preference_settings(job: Job) -> PreferenceSettings:
    """How the recipe has scores become preferences."""
    prefer = job.recipe.prefer
    return PreferenceSettings(tau=prefer.tau, anchor="score" if prefer.anchor_in_group else "out", margin=prefer.margin)


def scored_groups(
    job: Job, groups: list[CandidateGroup], raw: list[list[Array]], posteriors: Sequence[Array] | None = None
) -> list[ScoredGroup]:
    """The groups with their scores, from those of each scorer: (M,) a group, the anchor's last."""
    weights = agreement_weights(raw) if job.recipe.rank.weighting == "agreement" else None
    total = combine(raw, weights) if len(raw) > 1 else raw[0]
    known = posteriors or [None] * len(groups)
    return [_scored_group(group, total[i], [scores[i] for scores in raw], known[i]) for i, group in enumerate(groups)]


def scores_of_rows(job: Job, scorer: Scorer, groups: list[CandidateGroup], number: int) -> list[Array]:
    """Per group (M,): `score_groups`, with those of earlier answers, from their own rounds, before the anchor's."""
    scores = score_groups(job, scorer, groups, of_round(number))
    held = {n: job.ledger.scores(of_round(n), scorer.name) for n in {e.round for g in groups for e in g.earlier}}
    return [
        np.array([*s[:-1], *(held[e.round][g.anchored.prompt.key].candidates[e.k] for e in g.earlier), s[-1]])
        for g, s in zip(groups, scores, strict=True)
    ]


def score_groups(job: Job, scorer: Scorer, groups: list[CandidateGroup], rollout: Rollout) -> list[Array]:
    """Per group (K + 1,): the candidates' scores, then the anchor's; those that the ledger holds are read from it."""
    held = {
        key: np.append(scores.candidates, scores.anchor)
        for key, scores in job.ledger.scores(rollout, scorer.name).items()
        if scores.anchor is not None
    }
    # The last bits of a score depend on what it was computed together with, so a call is kept whole or done again.
    missing = [g for g in groups if g.anchored.prompt.key not in held]
    missing = groups if missing and scorer.relative else missing
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
        new: dict[str, GroupScores] = {}
        with job.console.bar(f"{rollout.title}: {scorer.name}", len(groups)) as bar:
            bar.advance(len(groups) - len(missing))
            for index, scores in scorer.score(job.judge(rollout.policy), items):
                key = missing[index].anchored.prompt.key
                _require_finite(scores, scorer, missing[index], rollout)
                new[key] = GroupScores(scores[:-1], float(scores[-1]))
                held[key] = scores
                bar.advance()
        job.ledger.add_all_scores(rollout, scorer.name, new)
    return [held[g.anchored.prompt.key] for g in groups]


def _require_finite(scores: Array, scorer: Scorer, group: CandidateGroup, rollout: Rollout) -> None:
    """Refuse scores that are no numbers, before they are kept: a row of a table would lose which they were."""
    if not np.isfinite(scores).all():
        raise TrainingError(
            f"The scorer {scorer.name} gives an answer to the prompt {group.anchored.prompt.key} a score that is not "
            "finite.",
            f"The last good adapter is {rollout.policy or 'the student as it came'}. Try another scorer: "
            "--set rank.scorer=auto, or --set prefer.rounds=0 to end with SFT.",
        )


def _anchor(group: CandidateGroup) -> tuple[Tokens, str]:
    return group.anchored.answer_tokens, group.anchored.answer


def _scored_group(group: CandidateGroup, total: Array, votes: list[Array], posterior: Array | None) -> ScoredGroup:
    return ScoredGroup(
        scores=total,
        identity=identities([*(c.tokens for c in group.answers), group.anchored.answer_tokens]),
        truncated=np.array([*(c.finish == "length" for c in group.answers), False]),
        votes=np.stack(votes) if len(votes) > 1 else None,
        posterior=posterior,
        weight=np.array([*np.ones(len(group.candidates)), *(e.weight for e in group.earlier), 1.0]),
    )
