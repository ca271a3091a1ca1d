"""What a run keeps and something else uses: its adapter as a judge, its export as the next student or teacher."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

from pudistill_cli.errors import DataError
from pudistill_cli.run.kept import damages


def refuse_damaged_model(path: Path) -> None:
    """See that a folder or file that a run keeps is what the run wrote; what is no run's is left as it is.

    Raises:
        DataError: it is damaged; what is the matter is said.
    """
    path = path.expanduser().absolute()
    for run in list(path.parents)[1:3]:  # runs/NAME/adapters/sft, runs/NAME/export/gguf-q8_0/model.gguf
        name = "/".join(path.relative_to(run).parts[:2])
        if sums := _sums(run / "ledger.sqlite", name):
            file = path.relative_to(run / name).as_posix()
            wanted = sums if path.is_dir() or file not in sums else {file: sums[file]}
            if found := damages(run, {name: wanted}):
                raise DataError(
                    f"{run / found[0].path} is damaged: it {found[0].what}.",
                    f"Have the run make it again: pudistill run {run / 'recipe.yaml'} --name {run.name} "
                    f"--runs {run.parent}",
                )


def _sums(ledger: Path, name: str) -> dict[str, str]:
    """As its ledger has them; read only, whatever its version, and whoever is at work on it."""
    if not ledger.is_file():
        return {}
    try:
        with closing(sqlite3.connect(f"{ledger.as_uri()}?mode=ro", uri=True)) as db:
            return dict(db.execute("SELECT file, sha256 FROM sums WHERE name = ?", (name,)).fetchall())
    except sqlite3.Error:  # of an older version, which kept none
        return {}
