"""`pudistill judge`: any scorer of any student, evaluated against gold judgements."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pudistill_cli.commands.options import JsonOption, SetOption
from pudistill_cli.commands.stopping import stoppable


def command(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="A local folder, a GGUF file, or a hub id.")],
    data: Annotated[Path, typer.Argument(metavar="DATA", help="Gold judgements: JSONL, or a JSON array.")],
    scorer: Annotated[
        list[str] | None,
        typer.Option("--scorer", help="As in rank.scorer; a+b is an ensemble. May be repeated; by default all."),
    ] = None,
    adapter: Annotated[Path | None, typer.Option("--adapter", help="A LoRA adapter's folder, in PEFT's form.")] = None,
    backend: Annotated[str, typer.Option("--backend", help="torch, llamacpp or mlx; auto looks here.")] = "auto",
    recipe: Annotated[
        str | None, typer.Option("--recipe", help="Ask as this recipe does: its wordings, context and template.")
    ] = None,
    changes: SetOption = None,
    wordings: Annotated[
        bool, typer.Option("--wordings", help="Ask in the vetted second wordings too, and average.")
    ] = False,
    length_free: Annotated[bool, typer.Option("--length-free", help="Regress the length out, within groups.")] = False,
    context: Annotated[int | None, typer.Option("--context", min=1, help="The longest sequence, in tokens.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Measure how well a model judges answers, before a run relies on it. Nothing is trained or written.

    A record of DATA is one of

      {"prompt", "anchor", "chosen", "rejected"}

      {"prompt", "anchor", "candidates": [{"text", "grade"}, ...]}

      {"instruction", "output_1", "output_2", "preference"}, as AlpacaEval has it

    "anchor" (or "reference") is a good answer; without it only the scorers called -blind can be measured.

    Examples:

      pudistill judge Qwen/Qwen2.5-3B-Instruct preferences.jsonl

      pudistill judge my.gguf graded.jsonl --scorer verdict --scorer pairwise --adapter runs/my-run/adapters/sft

      pudistill judge recipes/quickstart/student graded.jsonl --recipe quickstart
    """
    from pudistill_cli.bundle.opening import open_recipe
    from pudistill_cli.errors import UsageError
    from pudistill_cli.judging.gold import read_gold
    from pudistill_cli.judging.judge_file import judge_file
    from pudistill_cli.judging.loading import JudgeSettings
    from pudistill_cli.judging.scorer_choice import choose_scorers, missing_anchors_notice
    from pudistill_cli.redaction import redacted_change
    from pudistill_cli.terminal.console import Console

    if changes and recipe is None:
        change = redacted_change(changes[0])
        raise UsageError(f"--set {change} changes a recipe, and none is named.", "Name one: --recipe RECIPE")
    console = Console(as_json=as_json)
    gold = read_gold(data)
    scorers = choose_scorers(scorer or [], gold.groups, length_free=length_free)
    if not scorer and (notice := missing_anchors_notice(gold.groups)):
        console.warn(notice)
    settings = JudgeSettings.from_recipe(
        None if recipe is None else open_recipe(recipe, changes or [], console).recipe, model
    )
    if wordings:
        settings = settings.in_several_wordings()
    with stoppable(console, "the scorers' figures come together at the end, so there are none yet."):
        judge_file(console, gold, scorers, settings, adapter, backend, context)
