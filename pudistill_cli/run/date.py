"""When a run was started, as its folder keeps it: what its chat template takes for the present, whenever it goes on."""

from __future__ import annotations

import json
from datetime import datetime
from pathlib import Path

STARTED = "started"
"""Its key among what a run resolved once."""


def date_of(run: Path) -> datetime | None:
    """By local time; None of what is no run's folder, or of a run that has not kept it."""
    record = run / "state" / "run.json"
    if not record.is_file():
        return None
    kept = json.loads(record.read_text(encoding="utf-8")).get("resolved", {}).get(STARTED)
    return None if kept is None else datetime.fromisoformat(kept)
