"""`pudistill bundle`: everything that a run needs, or what it made, in one checked archive."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pudistill_cli.commands.options import RUNS, JsonOption, RunsOption, SetOption
from pudistill_cli.commands.stopping import stoppable
from pudistill_cli.errors import UsageError
from pudistill_cli.terminal.console import Console

if TYPE_CHECKING:
    from pudistill_cli.bundle.manifest import Kind
    from pudistill_cli.bundle.writing import Item


def command(
    recipe: Annotated[
        str | None, typer.Argument(metavar="RECIPE", help="A recipe file, or the name of a shipped one.")
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", metavar="PATH", help="Where the bundle goes; with --open, its files."),
    ] = None,
    changes: SetOption = None,
    result: Annotated[
        str | None, typer.Option("--result", metavar="RUN", help="Pack what a finished run made, to carry it back.")
    ] = None,
    opened: Annotated[
        Path | None, typer.Option("--open", metavar="FILE", help="Check a bundle and unpack it into a new folder.")
    ] = None,
    wheels: Annotated[
        str | None,
        typer.Option("--wheels", metavar="PLATFORM", help="Pack wheels as well, for linux_x86_64, say."),
    ] = None,
    python: Annotated[
        str | None, typer.Option("--python", metavar="VERSION", help="Of the other machine, for --wheels: 3.12, say.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="List what would be packed or unpacked.")] = False,
    runs: RunsOption = RUNS,
    as_json: JsonOption = False,
) -> None:
    """Pack recipe, prompts, the teacher's answers and the student, for a machine without a network.

    There, `pudistill run job.pudi` checks every file's SHA-256 and runs it; no connection is opened.

    A result holds figures, report, adapter and exports, and none of the prompts and answers.

    Examples:

      pudistill bundle my-recipe.yaml -o job.pudi

      pudistill bundle my-recipe.yaml --wheels linux_x86_64 --python 3.12

      pudistill bundle --result runs/my-run -o result.pudi

      pudistill bundle --open result.pudi
    """
    console = Console(as_json=as_json)
    given = [name for name, value in (("RECIPE", recipe), ("--result", result), ("--open", opened)) if value]
    if len(given) != 1:
        raise UsageError(
            f"{' and '.join(given)} exclude each other." if given else "There is nothing to be packed.",
            "Name one: pudistill bundle RECIPE, bundle --result RUN, or bundle --open FILE",
        )
    if changes and not recipe:
        raise UsageError(
            f"--set {changes[0]} changes a recipe, and none is named.", "Name one: pudistill bundle RECIPE"
        )
    if not recipe and (wheels or python):
        raise UsageError("--wheels and --python are for a recipe's bundle.", "Name one: pudistill bundle RECIPE")
    if python and not wheels:
        raise UsageError("--python is for wheels, and none are packed.", "Name a platform: --wheels linux_x86_64")
    with stoppable(console, "nothing is left of what was begun. The same command starts again."):
        if recipe:
            _pack_job(console, recipe, changes or [], out, dry_run, wheels, python)
        elif result:
            _pack_result(console, result, runs, out, dry_run)
        elif opened:
            _open(console, opened, out, dry_run)


def _pack_job(
    console: Console,
    recipe: str,
    changes: list[str],
    out: Path | None,
    dry_run: bool,
    wheels: str | None,
    python: str | None,
) -> None:
    from shlex import quote
    from tempfile import TemporaryDirectory

    from pudistill_cli.bundle.opening import open_recipe
    from pudistill_cli.bundle.packing import job_items
    from pudistill_cli.bundle.targets import Target
    from pudistill_cli.bundle.wheels import install_command, wheel_items
    from pudistill_cli.bundle.writing import check_output

    target = Target.named(wheels, python) if wheels else None
    loaded = open_recipe(recipe, changes, console)
    out = out or Path(f"{loaded.recipe.name}.pudi")
    if not dry_run:
        check_output(out)
    ask = " ".join(["pudistill anchors", quote(recipe), *(f"--set {quote(c)}" for c in changes)])
    with console.status("checking what is to be packed"):
        packed = job_items(loaded.recipe, console, ask)
    for notice in packed.notices:
        console.warn(notice)
    with TemporaryDirectory(prefix=".pudistill-wheels-", dir=out.parent) as folder:
        if target and dry_run:
            console.say(f"The wheels for {target.name}, Python {target.python}, are fetched when it is packed.")
        elif target:
            items, notices = wheel_items(target, Path(folder), console)
            packed.items.extend(items)
            for notice in notices:
                console.say(notice)
        if not _pack(console, "job", packed.items, out, dry_run):
            return
    console.result("On a machine without a network:")
    if target:
        console.result(f"  {install_command(Path(out.name), [item.name for item in packed.items])}")
    console.result(f"  pudistill run {quote(out.name)}")


def _pack_result(console: Console, run: str, runs: Path, out: Path | None, dry_run: bool) -> None:
    from shlex import quote

    from pudistill_cli.bundle.results import result_items
    from pudistill_cli.run.opening import find_run

    folder = find_run(run, runs)
    out = out or Path(f"{folder.name}-result.pudi")
    if _pack(console, "result", result_items(folder), out, dry_run):
        console.result("No prompt and no answer is in it as text; what the weights have learned of them is.")
        console.result(f"Where it is to be used:  pudistill bundle --open {quote(out.name)}")


def _pack(console: Console, kind: Kind, items: list[Item], out: Path, dry_run: bool) -> bool:
    """List the items and write them; whether they were written."""
    from pudistill_cli.bundle.listing import print_sizes
    from pudistill_cli.bundle.metering import metered
    from pudistill_cli.bundle.writing import check_output, write_bundle

    if not dry_run:
        check_output(out)
    print_sizes(console, {item.name: item.size for item in sorted(items, key=lambda item: item.name)})
    if dry_run:
        console.result("Dry run: nothing was written.")
        return False
    with metered(console, f"packing {out.name}", sum(item.size for item in items)) as on_bytes:
        manifest = write_bundle(out, kind, items, on_bytes)
    console.event("bundle", path=str(out), contents=kind, sha256=manifest.content)
    console.result(f"{out}: SHA-256 of its contents {manifest.content}")
    return True


def _open(console: Console, path: Path, out: Path | None, dry_run: bool) -> None:
    from pudistill_cli.bundle.archive import Bundle
    from pudistill_cli.bundle.listing import print_sizes
    from pudistill_cli.bundle.metering import metered
    from pudistill_cli.bundle.opening import unpack
    from pudistill_cli.bundle.writing import check_output

    out = out or Path(path.stem)
    if not dry_run:
        check_output(out)
    with Bundle(path) as bundle:
        print_sizes(console, {name: entry.size for name, entry in sorted(bundle.manifest.files.items())})
        if dry_run:
            with metered(console, f"checking {path.name}", bundle.manifest.total) as on_bytes:
                bundle.check(on_bytes)
        else:
            unpack(bundle, out, console, "-o FOLDER")
    console.event("opened", path=str(path), folder=None if dry_run else str(out), sha256=bundle.manifest.content)
    console.result(f"{path}: SHA-256 of its contents {bundle.manifest.content}; every file is as it was packed")
    console.result("Dry run: nothing was written." if dry_run else f"{out}/ holds them.")
