"""The gates of a round: on as few prompts as they need, and where they can by scores that the round has anyway."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, TypeVar

import numpy as np

from pudistill_cli.method.gates import (
    FIRST_LOOK,
    GateReport,
    candidates_gate,
    choose,
    collect,
    corruption_gate,
    kendall_gate,
    length_correlation,
    looks,
)
from pudistill_cli.method.sampling import uniforms
from pudistill_cli.method.scorers import Array, Item, Judge, Scorer
from pudistill_cli.method.scorers.likelihood import Likelihood
from pudistill_cli.method.statistics import mean_kendall
from pudistill_cli.method.wrong_answers import WrongAnswers
from pudistill_cli.run.context import Job
from pudistill_cli.run.rollouts import of_round, policy_of
from pudistill_cli.stages.anchors import Anchored
from pudistill_cli.stages.candidates import CandidateGroup, draw_groups
from pudistill_cli.stages.evaluator import item_of
from pudistill_cli.stages.ranking import score_groups

LIKELIHOOD = Likelihood()
ORDER = 2
"""The stream of uniform numbers that draws the gates' prompts; 0 and 1 corrupt their anchors."""

T = TypeVar("T")


# --- before the first update ---


def examine(job: Job, scorers: Sequence[Scorer], prompts: Sequence[Anchored]) -> list[GateReport]:
    """Put scorers through their gates before round 1.

    String scorers are held against `likelihood`, on candidates that round 1 then ranks; without a scorer that asks the
    model and has passed they cannot be chosen, and have no report.
    """
    rank, judge = job.recipe.rank, job.judge()
    shown = _drawn(job, prompts, [a.prompt.key for a in prompts])
    wrong = WrongAnswers(judge, judge, [item_of(a, []) for a in shown], job.recipe.seed)
    reports = {s.name: _corruption(job, judge, s, wrong, "gates") for s in scorers if s.asks_model}
    if choose(list(reports.values())) is not None:
        groups = _FirstGroups(job, shown)
        for scorer in [s for s in scorers if not s.asks_model]:
            compared = groups.beside_likelihood(scorer)
            reports[scorer.name] = kendall_gate("agreement", scorer, compared, looks(len(shown)), rank.min_kendall)
        reports = {name: groups.with_details(report) for name, report in reports.items()}
    return [reports[scorer.name] for scorer in scorers if scorer.name in reports]


@dataclass
class _FirstGroups:
    """The candidates of round 1 and their scores by `likelihood`: what is drawn and scored here is not done again."""

    job: Job
    prompts: Sequence[Anchored]
    seen: int = 0
    """Prompts whose groups were needed so far."""

    def scored(self, n: int) -> tuple[list[Item], list[Array]]:
        """Of the first n prompts."""
        groups = draw_groups(self.job, list(self.prompts[:n]), of_round(1))
        scores = score_groups(self.job, LIKELIHOOD, groups, of_round(1))
        self.seen = max(self.seen, n)
        return _items(self.job, groups), [s[:-1] for s in scores]

    def beside_likelihood(self, scorer: Scorer) -> Callable[[int], tuple[Sequence[Array], Sequence[Array]]]:
        """Scores of the first n prompts by a string scorer, and by likelihood."""

        def scores(n: int) -> tuple[Sequence[Array], Sequence[Array]]:
            items, trusted = self.scored(n)
            return collect(scorer, self.job.judge(), items), trusted

        return scores

    def with_details(self, report: GateReport) -> GateReport:
        """With what is only reported, where the scores are at hand; further wordings are asked about few prompts."""
        details = dict(report.details)
        views = self.job.judge().templates.other_views if report.scorer == LIKELIHOOD else ()
        if views:
            items, scores = self.scored(min(FIRST_LOOK, len(self.prompts)))
            others = [collect(Likelihood(view), self.job.judge(), items) for view in views]
            details["views"] = float(np.mean([mean_kendall(scores, other)[0] for other in others]))
        if self.seen and (report.gate == "agreement" or report.scorer == LIKELIHOOD):
            items, trusted = self.scored(self.seen)
            own = trusted if report.scorer == LIKELIHOOD else collect(report.scorer, self.job.judge(), items)
            details["length"] = length_correlation(own, items)
        return replace(report, details=details)


# --- before later ones ---


def examine_again(job: Job, scorers: Sequence[Scorer], groups: list[CandidateGroup], number: int) -> list[GateReport]:
    """The gates on a round's groups, all scored by now; of a refreshed judge also whether it agrees with the first one.

    The model is asked only where the round's own scores do not settle it: about corrupted anchors where the student's
    own answers are not clearly below the anchors, and for scores of `likelihood` or of the first judge that the round
    does not have.
    """
    rollout = of_round(number)
    judge = job.judge(rollout.policy)
    items = _items(job, groups)
    shown = _drawn(job, range(len(items)), [item.key for item in items])
    student = replace(judge, adapter=job.adapter(policy_of(number)))
    later = _LaterGates(
        job,
        judge,
        items,
        shown,
        {s.name: score_groups(job, s, groups, rollout) for s in scorers},
        WrongAnswers(judge, student, [items[i] for i in shown], job.recipe.seed),
        f"{rollout.title}: gates",
    )
    reports = [r for s in scorers for r in (later.of_model(s) if s.asks_model else [later.of_strings(s)])]
    return [later.with_length(report) for report in reports]


@dataclass(frozen=True)
class _LaterGates:
    """A round's groups, and each scorer's (K + 1,) scores of them, the anchor's last."""

    job: Job
    judge: Judge
    items: Sequence[Item]
    shown: Sequence[int]
    """Of the items, those that the model may be asked about, in that order."""
    scores: Mapping[str, Sequence[Array]]
    wrong: WrongAnswers
    title: str

    def candidates(self, name: str) -> list[Array]:
        """A scorer's (K,) scores of the candidates."""
        return [scores[:-1] for scores in self.scores[name]]

    def of_model(self, scorer: Scorer) -> list[GateReport]:
        """Corrupted anchors, unless the candidates' scores make them unnecessary; of a refreshed judge also drift."""
        rank = self.job.recipe.rank
        report = candidates_gate(scorer, self.items, self.scores[scorer.name], rank.min_anchor)
        if not (report.settled and report.passed):
            report = _corruption(self.job, self.judge, scorer, self.wrong, self.title)
        if rank.judge != "refreshed":
            return [report]
        return [report, self._beside("drift", scorer, self.job.judge(), scorer)]

    def of_strings(self, scorer: Scorer) -> GateReport:
        """Agreement with likelihood, on all groups where the round has its scores."""
        if LIKELIHOOD.name not in self.scores:
            return self._beside("agreement", scorer, self.judge, LIKELIHOOD)
        both = self.candidates(scorer.name), self.candidates(LIKELIHOOD.name)
        steps = [len(self.items)]
        return kendall_gate("agreement", scorer, lambda n: both, steps, self.job.recipe.rank.min_kendall)

    def with_length(self, report: GateReport) -> GateReport:
        """With how its scores go with length."""
        length = length_correlation(self.candidates(report.scorer.name), self.items)
        return replace(report, details={**report.details, "length": length})

    def _beside(self, gate: Literal["agreement", "drift"], scorer: Scorer, judge: Judge, other: Scorer) -> GateReport:
        """Against scores of `other` by `judge`, which is asked for as few as it takes."""
        own = [self.candidates(scorer.name)[i] for i in self.shown]
        items = [self.items[i] for i in self.shown]
        held: list[Array] = []

        def both(n: int) -> tuple[Sequence[Array], Sequence[Array]]:
            with self.job.console.bar(f"{self.title}, {gate} of {scorer.name}", n, transient=True) as bar:
                bar.advance(len(held))
                held.extend(collect(other, judge, items[len(held) : n]))
                bar.advance(n - bar.done)
            return own[:n], held

        return kendall_gate(gate, scorer, both, looks(len(own)), self.job.recipe.rank.min_kendall)


def _corruption(job: Job, judge: Judge, scorer: Scorer, wrong: WrongAnswers, title: str) -> GateReport:
    with job.console.bar(f"{title}: {scorer.name}", len(wrong)) as bar:
        report = corruption_gate(judge, scorer, wrong, job.recipe.rank.min_anchor, bar.advance)
        bar.expect(bar.done)  # as many as it took
    return report


def _drawn(job: Job, prompts: Sequence[T], keys: Sequence[str]) -> list[T]:
    """At most `rank.gate_prompts`, drawn by the seed: a file may be sorted, and a gate may look at its first few."""
    drawn = [uniforms(job.recipe.seed, 0, key, ORDER, 1)[0] for key in keys]
    return [prompts[i] for i in np.argsort(drawn)[: job.recipe.rank.gate_prompts]]


def _items(job: Job, groups: Sequence[CandidateGroup]) -> list[Item]:
    return [
        item_of(g.anchored, [(c.tokens, job.decode(g.anchored.prompt_tokens, c.tokens)) for c in g.candidates])
        for g in groups
    ]
