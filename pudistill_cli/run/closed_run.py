"""What is asked of the ledger of a run that is about to be opened."""

from __future__ import annotations

import json
from contextlib import closing
from datetime import datetime
from pathlib import Path

from pudistill_cli.files.atomic_files import write_atomic
from pudistill_cli.run.ledger import Ledger
from pudistill_cli.run.ledger_seal import (
    FIGURES,
    RECIPE,
    has_changed,
    refuse_damaged_ledger,
    seal_is_damaged,
    seal_of,
    unseal,
)


def check_closed(path: Path) -> list[str]:
    """See that the ledger is what was closed; damaged figures beside it are written again from there. Gives notices.

    Raises:
        RunError: the ledger is damaged, or gone.
    """
    refuse_damaged_ledger(path)
    notices: list[str] = []
    if seal_is_damaged(path):
        unseal(path)
        notices.append(f"{seal_of(path)} is damaged, and is written again: the ledger was looked through without it.")
    if has_changed(path, RECIPE):  # what it says is compared with the run, or it is written again
        notices.append(f"{path.with_name(RECIPE)} has changed since the run was closed.")
    if has_changed(path, FIGURES):
        with closing(Ledger(path)) as ledger:
            lines = [json.dumps(record) for record in ledger.figures()]
        rewrite(path, path.with_name(FIGURES), "".join(f"{line}\n" for line in lines))
        notices.append(f"{path.with_name(FIGURES)} is damaged: it is written again from the ledger.")
    return notices


def rewrite(path: Path, file: Path, text: str) -> None:
    """Write a file that is sealed together with the ledger `path`, unless it is this already."""
    if not file.is_file() or file.read_bytes() != text.encode():
        unseal(path)
        write_atomic(file, text)


def begun(path: Path) -> datetime | None:
    """When its first stage was begun, by local time; None before that."""
    if not path.exists():
        return None
    with closing(Ledger(path)) as ledger:
        first = ledger.begun()
    return None if first is None else datetime.fromisoformat(first).astimezone().replace(tzinfo=None)
