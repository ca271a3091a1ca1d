"""Exports that were finished and are no longer what was written: made again, or missed aloud."""

from __future__ import annotations

from collections.abc import Sequence
from shlex import quote

from pudistill_cli.backend_api.export_formats import FORMATS, MLX_FULL, Target
from pudistill_cli.run.context import Job
from pudistill_cli.run.marks import Mark
from pudistill_cli.run.mending import named, without_a_copy


def forget_damaged(job: Job, targets: Sequence[Target]) -> dict[str, str]:
    """Take back the marks of exports that are damaged or gone; returns, by export, the adapter that each was of.

    Those that are not among the recipe's targets are named with the command that makes them.
    """
    marks = {Mark.EXPORT.of(m): m for m in sorted(job.ledger.finished_stages()) if Mark.named(m) is Mark.EXPORT}
    left = without_a_copy(job.folder, job.ledger, job.console.warn, [f"export/{name}" for name in marks])
    wanted = {str(attempt) for target in targets for attempt in target.attempts}
    adapters: dict[str, str] = {}
    for name, mark in marks.items():
        if not any(damage.name == f"export/{name}" for damage in left):
            continue
        adapter = job.ledger.stage_detail(mark).get("adapter")
        what = named(job.folder, left, f"export/{name}")
        job.ledger.unfinish_stages([mark])
        job.ledger.forget_sums(f"export/{name}")
        if name in wanted:
            job.console.warn(f"{what}. It is made again.")
        else:
            again = f"pudistill export {quote(str(job.folder.path))} {_options(name)}"
            job.console.warn(f"{what}. To make it again: {again}" + (f" --adapter {adapter}" if adapter else ""))
        if adapter:
            adapters[name] = adapter
    return adapters


def _options(name: str) -> str:
    """Of `pudistill export`, for the export of this name."""
    if name in FORMATS:
        return f"--format {name}"
    format, _, variant = name.partition("-")
    if format == "gguf":
        return f"--format gguf --quant {variant}"
    stored, _, group = variant.partition("-g")
    bits = next((bits for bits, full in MLX_FULL.items() if full == stored), stored.removesuffix("bit"))
    return f"--format mlx --bits {bits}" + (f" --group-size {group}" if group else "")
