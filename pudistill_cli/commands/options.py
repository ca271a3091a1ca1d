"""Options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, TypeAlias

import typer

from pudistill_cli.errors import UsageError
from pudistill_cli.files.paths_inside import RUN_NAME


def _of_one_folder(name: str | None) -> str | None:
    """Refuse a name that would lie outside of the runs, before anything is looked at."""
    if name is not None and not RUN_NAME.fullmatch(name):
        raise UsageError(
            f"--name {name}: that cannot name a run, which is one folder among the others in --runs.",
            "Use up to 100 letters, digits, '.', '_' and '-', the first a letter or a digit: --name my-run",
        )
    return name


RecipeArgument: TypeAlias = Annotated[
    str,
    typer.Argument(metavar="RECIPE", help="A recipe file, a shipped one's name (see: pudistill recipes), or a bundle."),
]
RunArgument: TypeAlias = Annotated[
    str, typer.Argument(metavar="RUN", help="A run's name under ./runs, or the path of its folder.")
]
SetOption: TypeAlias = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Change one setting, e.g. --set prefer.k=8. May be repeated."),
]
NameOption: TypeAlias = Annotated[
    str | None, typer.Option("--name", callback=_of_one_folder, help="Name of the run; by default the recipe's own.")
]
RunsOption: TypeAlias = Annotated[Path, typer.Option("--runs", help="The folder that holds the runs.")]
JsonOption: TypeAlias = Annotated[bool, typer.Option("--json", help="Print events as JSON lines instead of text.")]
OfflineOption: TypeAlias = Annotated[bool, typer.Option("--offline", help="Never open a connection: use what is here.")]
AllowCodeOption: TypeAlias = Annotated[
    bool,
    typer.Option(
        "--allow-code",
        help="Run the code that the recipe names: eval.metric as package.module:function, export.llama_cpp.",
    ),
]
MetricOption: TypeAlias = Annotated[
    str | None,
    typer.Option(
        "--metric",
        metavar="FILE.py:FUNCTION",
        help="Grade answers by a function of a Python file, in place of the recipe's eval.metric.",
    ),
]

RUNS = Path("runs")
