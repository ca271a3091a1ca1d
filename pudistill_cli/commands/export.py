"""`pudistill export`: weights or adapter of a run, verified."""

from __future__ import annotations

from contextlib import closing
from typing import Annotated

import typer

from pudistill_cli.allowed_code import AllowedCode
from pudistill_cli.commands.options import RUNS, AllowCodeOption, JsonOption, RunArgument, RunsOption
from pudistill_cli.commands.stopping import stoppable
from pudistill_cli.terminal.console import Console


def command(
    run: RunArgument,
    format: Annotated[
        str,
        typer.Option(
            "--format",
            help="hf: merged weights; adapter: the PEFT adapter alone; gguf: merged weights for llama.cpp, Ollama and "
            "LM Studio; gguf-adapter: the adapter alone for llama.cpp; mlx: merged weights for mlx-lm and LM Studio.",
        ),
    ] = "hf",
    quant: Annotated[
        list[str] | None,
        typer.Option(
            "--quant",
            help="Of GGUF weights: q8_0, q6_k, q5_k_m, q4_k_m, q4_0, f16, ... May be repeated. By default q8_0, or the "
            "smallest type that keeps what was learned; one that is named is written whatever it loses.",
        ),
    ] = None,
    bits: Annotated[
        list[int] | None,
        typer.Option(
            "--bits",
            help="Of MLX weights: 3, 4, 5, 6, 8, 16 (bfloat16), 32 (float32). May be repeated. By default 8, or the "
            "fewest that keep what was learned.",
        ),
    ] = None,
    group_size: Annotated[
        int | None, typer.Option("--group-size", help="MLX weights that share a scale: 32, 64 or 128.")
    ] = None,
    dtype: Annotated[str, typer.Option("--dtype", help="Of merged weights: float32 or bfloat16.")] = "float32",
    adapter: Annotated[
        str | None, typer.Option("--adapter", help="sft or round-N; by default the one that dev chose.")
    ] = None,
    runs: RunsOption = RUNS,
    allow_code: AllowCodeOption = False,
    as_json: JsonOption = False,
) -> None:
    """Export a run, load the result back and compare it with the trained model.

    Examples:

      pudistill export quickstart --format hf

      pudistill export quickstart --format gguf --quant q8_0 --quant q4_k_m

      pudistill export quickstart --format mlx --bits 4 --group-size 32

      pudistill export quickstart --format adapter --adapter round-2
    """
    from pudistill_cli.loop import export_run
    from pudistill_cli.run.opening import reopen
    from pudistill_cli.run.preflight import check_exports

    console = Console(as_json=as_json)
    changes = [f"export.formats=[{format}]", f"export.dtype={dtype}"]
    if quant:
        changes.append(f"export.quants=[{','.join(quant)}]")
    if bits:
        changes.append(f"export.bits=[{','.join(map(str, bits))}]")
    if group_size is not None:
        changes.append(f"export.group_size={group_size}")
    with (
        stoppable(console, "exports that were finished, now or before, are as they were."),
        closing(reopen(run, runs, console, changes, allowed=AllowedCode(allow_code), grades=False)) as job,
    ):
        check_exports(job.recipe.export, job.student, job.folder.path, job.allowed)
        exports = export_run(job, adapter)
        for exported in exports.done:
            kl, ratio = exported.comparison.kl, exported.comparison.ratio
            console.event("exported", path=str(exported.folder), kl=kl, ratio=ratio)
            console.result(str(exported.folder))
        exports.check()
