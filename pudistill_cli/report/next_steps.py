"""What a run ends with: where its results lie, and what to type next."""

from __future__ import annotations

from shlex import quote

from pudistill_cli.config.export import formats_of
from pudistill_cli.config.stages import Stage
from pudistill_cli.report.content import read_results
from pudistill_cli.report.headline import headline
from pudistill_cli.run.context import Job
from pudistill_cli.stages.exporting import written_as


def print_next_steps(job: Job, last: Stage) -> None:
    """Print the paths of a finished run's results, or how a run that was to stop after stage `last` goes on."""
    folder = job.folder
    if last is not Stage.EXPORT:
        job.console.result(f"Stopped after {last.title}, as asked. The same command without --until goes on.")
        job.console.event("done", run=str(folder.path), until=last.title)
        return
    targets = formats_of(job.recipe.export, job.student.export_formats)
    exports = [folder.export(str(written_as(job, target) or target)) for target in targets]
    paths = {
        "table": folder.path / "results.json",
        "report": folder.path / "report.html",
        **{f"export ({path.name})": path for path in exports},
        "everything": folder.ledger_path,
    }
    job.console.result("")
    job.console.prose(headline(read_results(paths["table"])), bold=True)
    job.console.result("")
    width = max(map(len, paths)) + 2
    for name, path in paths.items():
        job.console.result(f"{name:<{width}}{path}")
    job.console.result("")
    again = ["pudistill eval", quote(str(folder.path)), *job.measure.options, "--show 3"]
    job.console.result(f"Read some answers:  {' '.join(again)}")
    job.console.event("done", run=str(folder.path), **{name: str(path) for name, path in paths.items()})
