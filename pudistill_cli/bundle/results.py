"""What a bundle carries back of a finished run: weights, figures and report, and no prompt and no answer."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

from pudistill_cli.bundle.writing import Item, check_items
from pudistill_cli.errors import RunError
from pudistill_cli.report.content import read_run
from pudistill_cli.report.page import page
from pudistill_cli.run.folder import RunFolder
from pudistill_cli.run.kept import damages
from pudistill_cli.run.ledger import Ledger
from pudistill_cli.run.mending import named, run_again
from pudistill_cli.run.opening import not_finished

RESULTS = "results.json"
REPORT = "report.html"
_FIGURES = ("recipe.yaml", RESULTS, "metrics.jsonl")


def result_items(run: Path) -> list[Item]:
    """The recipe as resolved, every figure, the report without its examples, the chosen adapter and all exports.

    The ledger stays, which holds every prompt, answer and candidate.

    Raises:
        RunError: the run is not finished, something that would be packed is damaged, or another process works on it.
    """
    if not (run / RESULTS).is_file():
        raise not_finished(run)
    with closing(RunFolder.reopen(run)) as folder:
        content = read_run(run)
        chosen = folder.adapter(content.results.chosen)
        _refuse_damaged(folder, chosen)
        items = [Item(name, run / name) for name in _FIGURES if (run / name).is_file()]
        items.append(Item(REPORT, page(replace(content, examples=[])).encode()))
        items += [Item(path.relative_to(run).as_posix(), path) for path in (*_files(chosen), *_files(run / "export"))]
    items.sort(key=lambda item: item.name)
    check_items(items)
    return items


def _refuse_damaged(folder: RunFolder, chosen: Path) -> None:
    """See that adapter and exports are what was written; the table and the ledger are compared where they are read."""
    with closing(Ledger(folder.ledger_path)) as ledger:
        sums = ledger.sums()
    packed = (f"adapters/{chosen.name}", *(name for name in sums if name.startswith("export/")))
    found = damages(folder.path, {name: sums[name] for name in packed if name in sums})
    if found:
        raise RunError(f"{named(folder, found, *packed)}.", f"Make it whole: {run_again(folder)}")


def _files(folder: Path) -> Iterator[Path]:
    """Every plain file below a folder; what was being written when a process died is not."""
    for path in sorted(folder.rglob("*")):
        hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)
        if path.is_file() and not path.is_symlink() and not hidden:
            yield path
