"""`pudistill bundle`: everything that a run needs, or what it made, in one checked archive."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pudistill_cli.commands.options import JsonOption, SetOption
from pudistill_cli.console import Console
from pudistill_cli.errors import UsageError


def command(
    recipe: Annotated[
        str | None, typer.Argument(metavar="RECIPE", help="A recipe file, or the name of a shipped one.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", metavar="FILE", help="Where the bundle goes. Default: NAME.pudi.")
    ] = None,
    changes: SetOption = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="List what would be packed, and stop.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Pack recipe, prompts, the teacher's answers and the student, for a machine without a network.

    There, `pudistill run NAME.pudi` checks every file's SHA-256 and runs it; no connection is opened.

    Examples:

      pudistill anchors my-recipe.yaml

      pudistill bundle my-recipe.yaml -o job.pudi
    """
    from shlex import quote

    from pudistill_cli.bundle.listing import print_contents
    from pudistill_cli.bundle.metering import metered
    from pudistill_cli.bundle.opening import open_recipe
    from pudistill_cli.bundle.packing import job_items
    from pudistill_cli.bundle.writing import check_output, write_bundle

    console = Console(as_json=as_json)
    if recipe is None:
        raise UsageError("There is no recipe to be packed.", "Name one: pudistill bundle RECIPE")
    loaded = open_recipe(recipe, changes or [], console)
    out = out or Path(f"{loaded.recipe.name}.pudi")
    if not dry_run:
        check_output(out)
    ask = " ".join(["pudistill anchors", quote(recipe), *(f"--set {quote(c)}" for c in changes or [])])
    with console.status("checking what is to be packed"):
        packed = job_items(loaded.recipe, console, ask)
    for notice in packed.notices:
        console.warn(notice)
    print_contents(console, packed.items)
    if dry_run:
        console.result("Dry run: nothing was written.")
        return
    with metered(console, f"packing {out.name}", sum(item.size for item in packed.items)) as on_bytes:
        manifest = write_bundle(out, "job", packed.items, on_bytes)
    console.event("bundle", path=str(out), contents=manifest.kind, sha256=manifest.content)
    console.result(f"{out}: SHA-256 of all contents {manifest.content}")
    console.result(f"On a machine without a network:  pudistill run {quote(out.name)}")
