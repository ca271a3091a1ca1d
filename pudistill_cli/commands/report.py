"""`pudistill report`: a finished run as one HTML file."""

from __future__ import annotations

from pudistill_cli.commands.options import RUNS, JsonOption, RunArgument, RunsOption
from pudistill_cli.terminal.console import Console


def command(run: RunArgument, runs: RunsOption = RUNS, as_json: JsonOption = False) -> None:
    """Write report.html into a run's folder: tables, claims, charts and answers in one file, no network, no script.

    `run` and `eval` write it too; no model is loaded for it.

    Examples:

      pudistill report quickstart
    """
    from pudistill_cli.report.page import write_report
    from pudistill_cli.run.opening import find_run, not_finished

    folder = find_run(run, runs)
    if not (folder / "results.json").is_file():
        raise not_finished(folder)
    path = write_report(folder)
    console = Console(as_json=as_json)
    console.event("report", path=str(path))
    console.result(str(path))
