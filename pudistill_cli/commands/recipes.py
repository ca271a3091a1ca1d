"""`pudistill recipes`: what can be run by name."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from pudistill_cli.terminal.console import Console, PlainTable


def command(
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON list instead.")] = False,
) -> None:
    """List the recipes that come with pudistill.

    Start one with `pudistill run NAME`, or copy its file and make it yours.
    """
    from pudistill_cli.config.loading import shipped_recipes

    recipes = shipped_recipes()
    if as_json:
        typer.echo(json.dumps([{"name": r.name, "about": r.about, "path": str(r.path)} for r in recipes]))
        return
    table = PlainTable(box=None, pad_edge=False, header_style="bold")
    for column in ("recipe", "what it does", "file"):
        table.add_column(column, overflow="fold")
    for recipe in recipes:
        table.add_row(recipe.name, recipe.about, str(recipe.path))
    Console().table(table)
