"""Options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, TypeAlias

import typer

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
    str | None, typer.Option("--name", help="Name of the run; by default the recipe's own.")
]
RunsOption: TypeAlias = Annotated[Path, typer.Option("--runs", help="The folder that holds the runs.")]
JsonOption: TypeAlias = Annotated[bool, typer.Option("--json", help="Print events as JSON lines instead of text.")]
OfflineOption: TypeAlias = Annotated[bool, typer.Option("--offline", help="Never open a connection: use what is here.")]

RUNS = Path("runs")
