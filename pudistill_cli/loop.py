"""The main loop: from one teacher answer a prompt to a better student. The only copy."""

from __future__ import annotations

from pudistill_cli.config.export import formats_of
from pudistill_cli.errors import UsageError
from pudistill_cli.report.page import write_report
from pudistill_cli.report.tables import print_results
from pudistill_cli.run.context import Job
from pudistill_cli.stages.anchors import ask_teacher
from pudistill_cli.stages.candidates import sample_candidates
from pudistill_cli.stages.evaluation import final_evaluation
from pudistill_cli.stages.exporting import Exported, export_best, export_targets
from pudistill_cli.stages.gating import still_trusted, trusted_scorer
from pudistill_cli.stages.preference_update import improve
from pudistill_cli.stages.ranking import rank_candidates
from pudistill_cli.stages.selection import Selection
from pudistill_cli.stages.sft import learn_anchors

STAGES = ("anchors", "sft", "prefer", "eval", "export")


def distil(job: Job, until: str = "export") -> None:
    """Run the method, stage by stage; whatever the ledger holds already is not done again."""
    wanted = STAGES.index(until)
    anchors = ask_teacher(job)  # once a prompt, cached
    if wanted < STAGES.index("sft"):
        return
    learn_anchors(job, anchors)  # stage 1; its end is frozen as judge
    scorer = trusted_scorer(job, anchors)  # the gates decide, or SFT is all
    best = Selection(job, anchors, scorer)
    best.consider("sft")
    if scorer is not None and wanted >= STAGES.index("prefer"):
        for number in range(1, job.recipe.prefer.rounds + 1):  # stage 2
            groups = sample_candidates(job, anchors.for_rl(number), number)
            ranked = rank_candidates(job, scorer, groups, number)  # the judge's adapter, the anchor in view
            if ranked.ends_the_rounds or not still_trusted(job, scorer, groups, number):
                break
            improve(job, ranked, number)  # DPO, GRPO, LDL-GRPO
            best.consider(f"round-{number}")  # dev chooses
            if best.gives_up(number):
                break
    if wanted >= STAGES.index("eval"):
        print_results(job.console, final_evaluation(job, anchors, best, scorer))  # test is read once
    if wanted >= STAGES.index("export"):
        export_best(job, anchors, best.choice.name)
    if wanted >= STAGES.index("eval"):
        write_report(job.folder.path)


def export_run(job: Job, adapter: str | None) -> list[Exported]:
    """Export a finished run once more, in the formats of its recipe.

    Raises:
        UsageError: no such adapter.
    """
    name = adapter or str(job.ledger.stage_detail("eval")["chosen"])
    if not job.folder.adapter(name).is_dir():
        known = sorted(p.name for p in job.folder.adapter("").iterdir())
        raise UsageError(f"This run has no adapter {name!r}.", f"It has: {', '.join(known)}.")
    return export_targets(job, ask_teacher(job), name, formats_of(job.recipe.export, job.student.keeps_its_types))
