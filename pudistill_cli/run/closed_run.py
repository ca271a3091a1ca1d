"""What is asked of the ledger of a run that is about to be opened."""

from __future__ import annotations

import json
from contextlib import closing
from datetime import datetime
from pathlib import Path

from pudistill_cli.atomic_files import write_atomic
from pudistill_cli.run.ledger import Ledger
from pudistill_cli.run.ledger_seal import FIGURES, figures_are_damaged, refuse_damaged_ledger, unseal


def check_closed(path: Path) -> list[str]:
    """See that the ledger is what was closed; damaged figures beside it are written again from there, which is told.

    Raises:
        RunError: the ledger is damaged, or gone.
    """
    refuse_damaged_ledger(path)
    if not figures_are_damaged(path):
        return []
    figures = path.with_name(FIGURES)
    with closing(Ledger(path)) as ledger:
        records = ledger.figures()
    unseal(path)
    write_atomic(figures, "".join(f"{json.dumps(record)}\n" for record in records))
    return [f"{figures} was damaged: it is written again from the ledger."]


def begun(path: Path) -> datetime | None:
    """When its first stage was begun, by local time; None before that."""
    if not path.exists():
        return None
    with closing(Ledger(path)) as ledger:
        first = ledger.begun()
    return None if first is None else datetime.fromisoformat(first).astimezone().replace(tzinfo=None)
