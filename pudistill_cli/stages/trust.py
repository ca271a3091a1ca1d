"""Before any update: which scorers can be trusted, by the gates; nothing passed means SFT is all."""

from __future__ import annotations

import math
from collections.abc import Sequence

from pudistill_cli.evaluate import item_of
from pudistill_cli.job import Job
from pudistill_cli.method.gates import GateReport, choose, examine
from pudistill_cli.method.scorers import Scorer
from pudistill_cli.method.scorers.registry import scorer_from
from pudistill_cli.stages.anchors import Anchors
from pudistill_cli.stages.candidates import sample_candidates

AUTO = ("likelihood", "token-f1")
"""What `scorer: auto` puts through the gates; the others are there for a recipe to name."""


def trusted_scorer(job: Job, anchors: Anchors) -> Scorer | None:
    """The recipe's scorer, or what passes of `AUTO`; None when the gates let nothing through."""
    rank = job.recipe.rank
    if job.recipe.prefer.rounds == 0 or not anchors.rl_pool:
        return None
    names = AUTO if rank.scorer == ("auto",) else rank.scorer
    if not rank.gates:
        return _scorer(job, names)
    if job.ledger.stage_done("rank"):
        passed = job.ledger.stage_detail("rank")["passed"]
        return _scorer(job, passed) if passed else None
    job.ledger.begin_stage("rank")
    groups = sample_candidates(job, anchors.for_rl(1)[: rank.gate_prompts], 1)
    items = [
        item_of(g.anchored, [(c.tokens, job.decode(g.anchored.prompt_tokens, c.tokens)) for c in g.candidates])
        for g in groups
    ]
    scorers = [_scorer(job, [name]) for name in names]
    with job.console.bar("gates", len(scorers)) as bar:
        reports = examine(job.judge(), scorers, items, job.recipe.seed, rank.min_anchor, rank.min_kendall)
        bar.advance(len(scorers))
    for report in reports:
        _tell(job, report)
    trusted = choose(reports) is not None
    passed = [name for name, report in zip(names, reports, strict=True) if trusted and report.passed]
    job.ledger.finish_stage("rank", {"passed": passed, "reports": [_record(r) for r in reports]})
    if not trusted:
        job.console.warn(
            "No scorer passed its gate: this student cannot rank its own answers to these prompts, so the run ends "
            "with SFT. More SFT, a larger student or another view template (rank.view) may change that."
        )
    return _scorer(job, passed) if trusted else None


def _scorer(job: Job, names: Sequence[str]) -> Scorer:
    rank = job.recipe.rank
    return scorer_from(names, rank.weighting, length_free=rank.length_free)


def _tell(job: Job, report: GateReport) -> None:
    what = {
        "corruption": "puts the anchor above a corrupted copy in {:.0%} of the prompts (needs {:.0%})",
        "agreement": "agrees with likelihood inside groups, Kendall {:.2f} (needs {:.2f})",
    }[report.gate].format(report.measure, report.threshold)
    length = report.details.get("length", math.nan)
    job.console.say(
        f"gate: {report.scorer.name} {what}: {'passed' if report.passed else 'failed'}; "
        f"correlation with length {length:+.2f}"
    )


def _record(report: GateReport) -> dict[str, object]:
    return {
        "scorer": report.scorer.name,
        "gate": report.gate,
        "passed": report.passed,
        "measure": report.measure,
        "threshold": report.threshold,
        "details": dict(report.details),
    }
