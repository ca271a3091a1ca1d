"""The paper's claims on this run: held-out groups are drawn and ranked as a round's are, and held against the truth."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any

import numpy as np

from pudistill_cli.method.claims import Check, Group, concentration, order, stability
from pudistill_cli.method.preferences import round_targets
from pudistill_cli.method.scorers import Scorer
from pudistill_cli.method.statistics import mean_kendall
from pudistill_cli.run.context import Job, shown_as
from pudistill_cli.run.marks import Mark
from pudistill_cli.run.rollouts import CLAIMS, of_round
from pudistill_cli.stages.anchors import Anchored, Anchors, judge_reads
from pudistill_cli.stages.candidates import draw_groups
from pudistill_cli.stages.evaluator import components
from pudistill_cli.stages.ranking import preference_settings, score_groups, scored_groups
from pudistill_cli.stages.selection import Selection

MOST_PROMPTS = 200
"""Dev prompts whose candidates are drawn and ranked: about what one round costs."""


@dataclass(frozen=True, slots=True)
class Claim:
    """A claim, what was measured of it, and what came out."""

    name: str
    measured: str
    """What the value is, or why there is none."""
    check: Check
    label_free: Mapping[str, float] = field(default_factory=dict[str, float])
    """What is known of it without the truth."""

    @property
    def outcome(self) -> str:
        """In words."""
        return {True: "holds", False: "does not hold", None: "cannot be told"}[self.check.holds]


@shown_as("claims")
def measure_claims(job: Job, anchors: Anchors, best: Selection, scorer: Scorer | None) -> list[Claim]:
    """Check each claim; candidates and scores that the ledger holds are not computed again."""
    prompts = [a for a in best.dev if a.prompt.reference is not None and a.answer_tokens and judge_reads(job, a)]
    why = _why_unknown(job, scorer, prompts)
    groups = _held_out_groups(job, scorer, prompts[:MOST_PROMPTS]) if scorer is not None and not why else []
    why = why or "nothing: in no group do the candidates differ by eval.metric"
    seed, metric, k = job.recipe.seed, job.measure.name, job.recipe.prefer.k
    ordered, concentrated = order(groups, seed), concentration(groups, seed)
    pairs = f"of the pairs among {k} candidates are ordered as by {metric}; chance is .5"
    way = f"of the way from uniform to the best of {k} by {metric} is how far the labels go"
    claims = [
        Claim("order", pairs if ordered.value else why, ordered, _label_free(job, scorer)),
        Claim("concentration", way if concentrated.value else why, concentrated),
        _stability(job, best),
    ]
    values = {f"claim/{c.name}": c.check.value for c in claims if c.check.value is not None}
    job.ledger.add_metrics("eval", 0, 0, values)
    return claims


def _why_unknown(job: Job, scorer: Scorer | None, prompts: list[Anchored]) -> str:
    """Why no group can be held against the truth; empty where one can."""
    if scorer is None:
        return "nothing: no scorer ranked"
    if job.metric_function is None:
        return "nothing: without eval.metric the truth is not known"
    if not job.recipe.eval.claims:
        return "nothing: eval.claims is false"
    if not prompts:
        return "nothing: no dev prompt has a reference, and a teacher's answer that the judge can read"
    return ""


def _held_out_groups(job: Job, scorer: Scorer, prompts: list[Anchored]) -> list[Group]:
    """K candidates of the SFT student a prompt, scored and labelled as a round's; those cut off are left out."""
    assert job.metric_function is not None
    groups = draw_groups(job, prompts, CLAIMS)
    raw = [score_groups(job, part, groups, CLAIMS) for part in components(scorer)]
    scored = scored_groups(job, groups, raw)
    ranked_groups: list[Group] = []
    for group, ranked, targets in zip(groups, scored, round_targets(scored, preference_settings(job)), strict=True):
        prompt = group.anchored.prompt
        reference, asked = prompt.reference or "", prompt.messages[-1].content
        texts = [job.decode(group.anchored.prompt_tokens, c.tokens) for c in group.candidates]
        quality = np.array([job.metric_function(text, reference, asked) for text in texts])
        member = targets.member[:-1] > 0
        scores, label, slots = (v[:-1][member] for v in (ranked.scores, targets.label, targets.slots))
        ranked_groups.append(Group(scores, label, slots, quality[member]))
    return ranked_groups


def _label_free(job: Job, scorer: Scorer | None) -> dict[str, float]:
    """What the gates found, and how far an ensemble's scorers agree on the first round's candidates."""
    reports: list[dict[str, Any]] = (
        job.ledger.stage_detail(Mark.GATES())["reports"] if job.ledger.stage_done(Mark.GATES()) else []
    )
    values: dict[str, float | None] = {}
    for report in reports:
        prompts = f"{report['details']['prompts']:.0f} prompts"
        values[f"{report['gate']} gate on {prompts}, {report['scorer']}"] = report["measure"]
        for detail in ("orders", "views"):
            values[f"{detail} alike, {report['scorer']}"] = report["details"].get(detail)
    for a, b in combinations(components(scorer) if scorer is not None else (), 2):
        first, second = (job.ledger.scores(of_round(1), scorer.name) for scorer in (a, b))
        both = [(first[key].candidates, second[key].candidates) for key in first if key in second]
        tau, groups = mean_kendall([x for x, _ in both], [y for _, y in both])
        values[f"Kendall, {a.name} and {b.name}"] = tau if groups else None
    return {name: value for name, value in values.items() if value is not None}


def _stability(job: Job, best: Selection) -> Claim:
    rounds = {c.name: c.values for c in best.considered if c.name != "sft"}
    sft = best.of("sft")
    check = stability(sft.values if sft is not None else [], rounds, job.recipe.seed)
    if check.value is None:
        return Claim("stability", "nothing: no dev prompts" if rounds else "nothing: no round", check)
    worst = next(name for name, gain in check.beside.items() if gain == check.value)
    measure = best.evaluator.selection_name
    return Claim("stability", f"gain over SFT in dev's {measure} of {worst}, the lowest of {len(rounds)} rounds", check)
