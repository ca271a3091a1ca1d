"""Export of the chosen adapter in each format of the recipe; nothing is left of one that fails its verification."""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from pudistill_cli.backend_api.export_formats import Target
from pudistill_cli.backend_api.exporter import WrittenExport
from pudistill_cli.config.export import formats_of
from pudistill_cli.errors import ExportError
from pudistill_cli.run.context import Job
from pudistill_cli.run.marks import Mark
from pudistill_cli.stages.anchors import Anchors
from pudistill_cli.stages.export_writers import writer_of
from pudistill_cli.stages.verification import (
    Comparison,
    Trained,
    compare,
    trained_distributions,
    verification_rows,
)

RATIO_WARN, RATIO_LOST = 0.1, 0.5
"""KL(trained || export) / KL(trained || SFT) above which part of the training is lost, and above which it is lost."""


@dataclass(frozen=True, slots=True)
class Exported:
    """One verified export: where it is, and how far it is from the trained model."""

    target: Target
    folder: Path
    comparison: Comparison
    next_steps: tuple[str, ...] = ()


def export_best(job: Job, anchors: Anchors, name: str) -> list[Exported]:
    """Write the formats of the recipe for the adapter `name`, unless the ledger says they are there."""
    targets = [
        t
        for t in formats_of(job.recipe.export, job.student.keeps_its_types)
        if not job.ledger.stage_done(Mark.EXPORT(t))
    ]
    return export_targets(job, anchors, name, targets)


def export_targets(job: Job, anchors: Anchors, name: str, targets: list[Target]) -> list[Exported]:
    """Write some formats of the adapter `name`, each verified before it is there under its name.

    Raises:
        ExportError: one cannot be written, or is not the trained model; nothing is left of it.
    """
    if not targets:
        return []
    reference = trained_distributions(job, name, verification_rows(anchors))
    return [_export_one(job, reference, anchors, name, target) for target in targets]


def _export_one(job: Job, reference: Trained, anchors: Anchors, name: str, target: Target) -> Exported:
    mark = Mark.EXPORT(target)
    job.ledger.begin_stage(mark)
    final = job.folder.export(str(target))
    partial = final.with_name(final.name + ".partial")
    _remove(partial)
    partial.parent.mkdir(parents=True, exist_ok=True)
    writer = writer_of(job, anchors, name, target, partial)
    try:
        with job.console.bar(f"export {target}", 2) as bar:
            written = writer.write()
            bar.advance()
            notices = (*written.notices, *writer.check(reference.rows))
            comparison = compare(reference, *writer.read_back(reference.rows))
            _refuse_another_model(target, comparison, written.kl_limit)
            bar.advance()
        card = json.dumps(_card(job, name, comparison, written), indent=2)
        (partial / "pudistill.json").write_text(card + "\n", encoding="utf-8")
        job.folder.replace_folder(partial, final)
    finally:
        _remove(partial)
    steps = tuple(step.replace(str(partial), str(final)) for step in written.next_steps)
    exported = Exported(target, final, comparison, steps)
    job.ledger.finish_stage(mark, {"path": str(final), **asdict(comparison)})
    _report(job, exported, writer.keeps_more)
    for notice in notices:
        job.console.warn(notice)
    return exported


def _refuse_another_model(target: Target, comparison: Comparison, limit: float | None) -> None:
    if not np.isfinite(comparison.kl) or (limit is not None and comparison.kl > limit):
        raise ExportError(
            f"The {target} export is not the trained model: mean next-token KL {comparison.kl:.2e} nats.",
            "Nothing was kept of it. Please report this with the student's config.json.",
        )
    if comparison.trained_ended and not comparison.ended:
        raise ExportError(
            f"The {target} export does not come to an end where the trained model does.",
            "Nothing was kept of it. Export in more bits, or report this with the student's tokenizer_config.json.",
        )


def _card(job: Job, name: str, comparison: Comparison, written: WrittenExport) -> dict[str, object]:
    return {
        "made_by": "pudistill",
        "run": job.folder.name,
        "adapter": name,
        "student": job.recipe.student.model.rsplit("/", 1)[-1],
        "verification": {**asdict(comparison), "ratio": comparison.ratio},
        **written.report,
    }


def _report(job: Job, exported: Exported, keeps_more: str) -> None:
    target, comparison = exported.target, exported.comparison
    job.console.say(
        f"{target}: loaded back and compared on {comparison.answers} held-out answers: "
        f"KL {comparison.kl:.1e} nats a token, {comparison.ratio:.1%} of what training changed after SFT"
    )
    if comparison.ratio > RATIO_LOST:
        job.console.warn(f"This {target} export lost the training. {keeps_more}")
    elif comparison.ratio > RATIO_WARN:
        job.console.warn(f"This {target} export loses part of the training. {keeps_more}")
    for step in exported.next_steps:
        job.console.say(f"  {step}")


def _remove(folder: Path) -> None:
    if folder.exists():
        shutil.rmtree(folder)
