"""The main loop: from one teacher answer a prompt to a better student. The only copy."""

from __future__ import annotations

from pudistill_cli.config.export import formats_of
from pudistill_cli.config.stages import Stage
from pudistill_cli.errors import UsageError
from pudistill_cli.method.scorers import Scorer
from pudistill_cli.report.page import write_report
from pudistill_cli.report.tables import print_results
from pudistill_cli.run.context import Job
from pudistill_cli.run.marks import Mark
from pudistill_cli.stages.anchors import Anchors, ask_teacher, keep_prompts
from pudistill_cli.stages.candidates import sample_candidates
from pudistill_cli.stages.ending import Ending, record_end, rounds_to_train
from pudistill_cli.stages.evaluation import final_evaluation
from pudistill_cli.stages.exporting import Exports, export_best, export_targets
from pudistill_cli.stages.gating import gate_ending, no_scorer_ending, trusted_scorer
from pudistill_cli.stages.ranking import rank_candidates
from pudistill_cli.stages.selection import Selection
from pudistill_cli.stages.sft import learn_anchors
from pudistill_cli.stages.update_check import update


def distil(job: Job, until: Stage = Stage.EXPORT) -> None:
    """Run the method, stage by stage, `until` included; whatever the ledger holds already is not done again."""
    keep_prompts(job)
    if until is Stage.PROMPTS:
        return
    anchors = ask_teacher(job)  # once a prompt, cached
    if until is Stage.ANCHORS:
        return
    learn_anchors(job, anchors)  # stage 1; its end is frozen as judge
    if until is Stage.SFT:
        return
    scorer = trusted_scorer(job, anchors)  # the gates decide, or SFT is all
    if until is Stage.RANK:
        return
    best = Selection(job, anchors, scorer)
    best.consider("sft")
    ending = no_scorer_ending(job, anchors) if scorer is None else train_rounds(job, anchors, scorer, best)  # stage 2
    if ending is not None:
        record_end(job, ending)
    if until is Stage.PREFER:
        return
    print_results(job.console, final_evaluation(job, anchors, best, scorer))  # test is read once
    _report(job)  # whatever becomes of the exports
    if until is Stage.EXPORT:
        with job.console.status("export"):
            exports = export_best(job, anchors, best.choice.name)
        job.model_pair.memo.clear()
        _report(job)
        exports.check()


def train_rounds(job: Job, anchors: Anchors, scorer: Scorer, best: Selection) -> Ending | None:
    """Stage 2, round by round; returns what ended the rounds, where that is not the recipe's last one."""
    for number in rounds_to_train(job):
        groups = sample_candidates(job, anchors.for_rl(number), number)
        ranked = rank_candidates(job, scorer, groups, number)  # the judge's adapter, the anchor in view
        if ending := ranked.ending or gate_ending(job, scorer, groups, number):
            return ending
        if ending := update(job, ranked, number):  # DPO, GRPO, LDL-GRPO
            return ending
        best.consider(f"round-{number}")  # dev chooses
        if ending := best.dev_ending(number):
            return ending
    return None


def _report(job: Job) -> None:
    with job.console.status("report"):
        write_report(job.folder.path)


def export_run(job: Job, adapter: str | None) -> Exports:
    """Export a finished run once more, in the formats of its recipe.

    Raises:
        UsageError: no such adapter.
    """
    name = adapter or str(job.ledger.stage_detail(Mark.EVAL())["chosen"])
    known = sorted(p.name for p in job.folder.adapter("").iterdir())
    if name not in known:
        raise UsageError(f"This run has no adapter {name!r}.", f"It has: {', '.join(known)}.")
    with job.console.status("export"):
        return export_targets(job, ask_teacher(job), name, formats_of(job.recipe.export, job.student.export_formats))
