"""Export of the chosen adapter in each format of the recipe; one that fails its verification leaves nothing."""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path

from pudistill_cli.backend_api.export_formats import ADAPTERS, Target, keeps_more
from pudistill_cli.backend_api.exporter import WrittenExport
from pudistill_cli.config.export import formats_of
from pudistill_cli.errors import ExportError, NotTheTrainedModel, PudistillError
from pudistill_cli.run.context import Job
from pudistill_cli.run.marks import Mark
from pudistill_cli.stages.anchors import Anchors
from pudistill_cli.stages.damaged_exports import forget_damaged
from pudistill_cli.stages.export_rule import LOST, check, share, with_runtimes
from pudistill_cli.stages.export_writers import Writer, writer_of
from pudistill_cli.stages.verification import (
    Comparison,
    Trained,
    compare,
    mean_kl,
    trained_distributions,
    verification_rows,
)

TRAINED_QUANTISED = (
    "The run trained on quantised weights, and this has the original ones: that is part of the difference."
)


@dataclass(frozen=True, slots=True)
class Exported:
    """One verified export: where it is, and how far it is from the trained model."""

    target: Target
    folder: Path
    comparison: Comparison
    next_steps: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Exports:
    """What came of all of a run's exports."""

    done: list[Exported]
    failed: dict[Target, Exception]

    def check(self) -> None:
        """See that every one is there.

        Raises:
            ExportError: one or more could not be written, or are not the trained model; nothing is left of those.
        """
        if not self.failed:
            return
        errors = list(self.failed.values())
        for error in errors:
            if not isinstance(error, PudistillError):  # a mistake of ours, which must not pass for the user's
                raise error
        kept = f" Written and verified: {', '.join(str(e.folder) for e in self.done)}." if self.done else ""
        hints = dict.fromkeys(error.hint for error in errors if isinstance(error, PudistillError) and error.hint)
        raise ExportError(" ".join(map(str, errors)) + kept, " ".join(hints))


def export_best(job: Job, anchors: Anchors, name: str) -> Exports:
    """Write the formats of the recipe for the adapter `name`, unless the ledger says they are there and they are whole.

    One that is damaged is made again of the adapter that it was of; one that the recipe does not name is missed aloud.
    """
    targets = formats_of(job.recipe.export, job.student.export_formats)
    damaged = forget_damaged(job, targets)
    by_adapter: dict[str, list[Target]] = {name: []}
    for target in targets:
        if written_as(job, target) is None:
            of = next((damaged[str(a)] for a in target.attempts if str(a) in damaged), name)
            by_adapter.setdefault(of, []).append(target)
    every = [export_targets(job, anchors, adapter, some) for adapter, some in by_adapter.items()]
    return Exports(
        [done for exports in every for done in exports.done],
        {target: error for exports in every for target, error in exports.failed.items()},
    )


def written_as(job: Job, target: Target) -> Target | None:
    """How a format is there by the ledger, where it is: in the first variant that was enough."""
    return next((attempt for attempt in target.attempts if job.ledger.stage_done(Mark.EXPORT(attempt))), None)


def export_targets(job: Job, anchors: Anchors, name: str, targets: list[Target]) -> Exports:
    """Write some formats of the adapter `name`, each verified before it is there under its name.

    One that fails does not stop the others.
    """
    exports = Exports([], {})
    if not targets:
        return exports
    reference = trained_distributions(job, name, verification_rows(anchors))
    for target in targets:
        try:
            exports.done.append(_smallest(job, reference, anchors, name, target))
        except Exception as error:  # noqa: BLE001 - kept until the others are written, then raised
            exports.failed[target] = error
            if len(targets) > 1:
                job.console.warn(f"The {target} export failed; the others go on.")
    return exports


def _smallest(job: Job, reference: Trained, anchors: Anchors, name: str, target: Target) -> Exported:
    """In the first of the target's variants that is the trained model."""
    for attempt in target.attempts:
        try:
            return _export_one(job, reference, anchors, name, attempt)
        except NotTheTrainedModel as error:
            if not attempt.larger:
                raise
            job.console.say(f"{error.message} {attempt.larger[0]} instead.")
    raise AssertionError("a target is attempted at least once")


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
            comparison = _compared(reference, writer, written)
            check(target, comparison, written.kl_limit, may_lose=not target.larger or writer.other_base)
            bar.advance()
        card = json.dumps(_card(job, name, comparison, written), indent=2)
        (partial / "pudistill.json").write_text(card + "\n", encoding="utf-8")
        job.ledger.forget_sums(f"export/{target}")  # until the mark has the new ones
        job.folder.replace_folder(partial, final)
    finally:
        _remove(partial)
    steps = tuple(step.replace(str(partial), str(final)) for step in written.next_steps)
    exported = Exported(target, final, comparison, steps)
    detail = {"path": str(final), "adapter": name, **asdict(comparison)}
    job.ledger.finish_stage(mark, detail, job.folder.sums(final))
    _report(job, exported, other_base=writer.other_base)
    for notice in notices:
        job.console.warn(notice)
    return exported


def _compared(reference: Trained, writer: Writer, written: WrittenExport) -> Comparison:
    comparison = compare(reference, *writer.read_back(reference.rows))
    return with_runtimes(
        comparison, written.kl_limit, lambda: mean_kl(reference.base, writer.read_base(reference.rows))
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


def _report(job: Job, exported: Exported, *, other_base: bool) -> None:
    target, comparison = exported.target, exported.comparison
    measured = f"KL {comparison.kl:.1e} nats a token"
    if comparison.kl_of_base is not None:
        meaning = f", nothing lost: its runtime's arithmetic makes {comparison.kl_of_base:.1e} before training"
    elif target.format in ADAPTERS:
        meaning = ", nothing lost"
    else:
        meaning = f", {comparison.ratio:.1%} of what training changed is lost"
    job.console.say(f"{target}: loaded back and compared on {comparison.answers} held-out answers: {measured}{meaning}")
    if comparison.ratio >= LOST and target.format not in ADAPTERS:
        why = f" {TRAINED_QUANTISED}" if other_base else ""
        job.console.warn(f"This {target} export loses {share(comparison)}.{why} {keeps_more(target)}")
    for step in exported.next_steps:
        job.console.say(f"  {step}")


def _remove(folder: Path) -> None:
    if folder.exists():
        shutil.rmtree(folder)
