"""`pudistill export`: weights or adapter of a run, verified."""

from __future__ import annotations

from typing import Annotated

import typer

from pudistill_cli.commands.options import RUNS, JsonOption, RunArgument, RunsOption


def command(
    run: RunArgument,
    format: Annotated[
        str, typer.Option("--format", help="hf: merged weights; adapter: the PEFT adapter alone.")
    ] = "hf",
    dtype: Annotated[str, typer.Option("--dtype", help="Of merged weights: float32 or bfloat16.")] = "float32",
    adapter: Annotated[
        str | None, typer.Option("--adapter", help="sft or round-N; by default the one that dev chose.")
    ] = None,
    runs: RunsOption = RUNS,
    as_json: JsonOption = False,
) -> None:
    """Export a run, load the result back and compare it with the trained model.

    Examples:

      pudistill export quickstart --format hf

      pudistill export quickstart --format adapter --adapter round-2
    """
    from pudistill_cli.console import Console
    from pudistill_cli.loop import export_run
    from pudistill_cli.prepare import reopen

    console = Console(as_json=as_json)
    job = reopen(run, runs, console, [f"export.formats=[{format}]", f"export.dtype={dtype}"])
    try:
        exported = export_run(job, adapter)
        console.event("exported", path=exported.path, kl=exported.kl, ratio=exported.ratio)
        console.result(exported.path)
    finally:
        job.close()
