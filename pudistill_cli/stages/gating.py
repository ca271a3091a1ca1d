"""Before every update: which scorers can be trusted, by the gates; none at first means SFT is all.

One that no longer passes in a later round means that the rounds end.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from pudistill_cli.method.gates import GateReport, choose
from pudistill_cli.method.scorers import Scorer
from pudistill_cli.method.scorers.registry import scorer_from
from pudistill_cli.run.context import Job, shown_as
from pudistill_cli.run.marks import Mark
from pudistill_cli.stages.anchors import Anchors
from pudistill_cli.stages.candidates import CandidateGroup
from pudistill_cli.stages.ending import Ending, Reason
from pudistill_cli.stages.evaluator import components
from pudistill_cli.stages.examining import examine, examine_again

AUTO = ("likelihood", "token-f1")
"""What `scorer: auto` puts through the gates; the others are there for a recipe to name."""


@shown_as("gates")
def trusted_scorer(job: Job, anchors: Anchors) -> Scorer | None:
    """The recipe's scorer, or what passes of `AUTO`; None when the gates let nothing through."""
    rank = job.recipe.rank
    if job.recipe.prefer.rounds == 0 or not anchors.rl_pool:
        return None
    names = AUTO if rank.scorer == ("auto",) else rank.scorer
    if not rank.gates:
        if job.metric_function is None:
            job.console.warn(
                "Without gates and without a measure of quality the scorer that ranks also chooses what is kept, and "
                "nothing checks it. Give a measure (eval.metric), or leave the gates on."
            )
        return _scorer(job, names)
    mark = Mark.GATES()
    if job.ledger.stage_done(mark):
        passed = job.ledger.stage_detail(mark)["passed"]
        return _scorer(job, passed) if passed else None
    job.ledger.begin_stage(mark)
    scorers = {name: _scorer(job, [name]) for name in names}
    reports = examine(job, list(scorers.values()), anchors.for_rl(1))
    for report in reports:
        job.console.say(f"gate: {_outcome(report)}: {'passed' if report.passed else 'failed'}")
    trusted = choose(reports) is not None
    good = {report.scorer.name for report in reports if trusted and report.passed}
    passed = [name for name, scorer in scorers.items() if scorer.name in good]
    job.ledger.finish_stage(mark, {"passed": passed, "reports": [_record(r) for r in reports]})
    if not trusted:
        job.console.warn(
            "No scorer passed its gate: this student cannot rank its own answers to these prompts, so the run ends "
            "with SFT. More SFT, a larger student or another view template (rank.view) may change that."
        )
    return _scorer(job, passed) if trusted else None


def no_scorer_ending(job: Job, anchors: Anchors) -> Ending | None:
    """Why there is no scorer, and so no round; None where the recipe asks for none."""
    if job.recipe.prefer.rounds == 0:
        return None
    return Ending.of(Reason.NO_SCORER if anchors.rl_pool else Reason.NO_PROMPTS, 0)


@shown_as("gates")
def gate_ending(job: Job, scorer: Scorer, groups: Sequence[CandidateGroup], number: int) -> Ending | None:
    """The end of the rounds, where what ranks round `number`, all scored by now, fails on its groups; decided once.

    The student has changed: its mistakes are other ones, and a refreshed judge is another one. A measure ends the
    rounds where it is below its threshold by more than chance.
    """
    mark = Mark.ROUND_GATES(number)
    if number == 1 or not job.recipe.rank.gates:
        return None
    if not job.ledger.stage_done(mark):
        job.ledger.begin_stage(mark)
        reports = examine_again(job, components(scorer), list(groups), number)
        fallen = [report for report in reports if report.fell]
        names = [report.scorer.name for report in fallen]
        job.ledger.finish_stage(mark, {"fell": names, "reports": [_record(report) for report in reports]})
        for report in fallen:
            job.console.warn(
                f"Round {number}: {_outcome(report)}. What it says of these answers is not to be learned from."
            )
        if fallen:
            job.console.warn(
                f"The rounds end before the update of round {number}; of the adapters so far the one that dev chooses "
                "is kept. More SFT, or another scorer (rank.scorer), may last longer."
            )
    names = dict.fromkeys(job.ledger.stage_detail(mark)["fell"])
    return Ending.of(Reason.GATE, number - 1, " and ".join(names), number) if names else None


def _scorer(job: Job, names: Sequence[str]) -> Scorer:
    rank = job.recipe.rank
    return scorer_from(names, rank.weighting, length_free=rank.length_free)


def _outcome(report: GateReport) -> str:
    what = {
        "corruption": "puts the anchor above a corrupted copy or another's in {:.0%} of the pairs (needs {:.0%})",
        "candidates": "puts the anchor above the student's own answers in {:.0%} of the pairs (needs {:.0%})",
        "agreement": "agrees with likelihood inside groups, Kendall {:.2f} (needs {:.2f})",
        "drift": "agrees with the first round's judge inside groups, Kendall {:.2f} (needs {:.2f})",
    }[report.gate].format(report.measure.mean, report.threshold)
    length = report.details.get("length", math.nan)
    prompts = f", on {report.details['prompts']:.0f} prompts"
    correlation = "" if math.isnan(length) else f"; correlation with length {length:+.2f}"
    return f"{report.scorer.name} {what}{prompts}{correlation}"


def _record(report: GateReport) -> dict[str, object]:
    return {
        "scorer": report.scorer.name,
        "gate": report.gate,
        "passed": report.passed,
        "measure": report.measure.mean,
        "interval": [report.measure.low, report.measure.high],
        "threshold": report.threshold,
        "details": dict(report.details),
    }
