"""How far a run is that is there already: read in no time, before anything is imported that takes some."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from pathlib import Path

from pudistill_cli.run.marks import Mark

_WORDS = {
    Mark.REWRITES_GATE: "the gate of the rewrites",
    Mark.STUDENT: "student {of} of SFT",
    Mark.SFT_CHECKPOINT: "step {steps} of SFT",
    Mark.SFT: "SFT",
    Mark.GATES: "the gates",
    Mark.ROUND_GATES: "the gates of round {of}",
    Mark.ROUND_PRIOR: "the ranking of round {of}",
    Mark.ROUND_CHECKPOINT: "step {steps} of the update of round {of}",
    Mark.ROUND: "round {of}",
    Mark.ROUND_CHECK: "the check of round {of}",
    Mark.DEV: "dev's figures of {of}",
    Mark.ROUNDS_END: "the end of the rounds",
    Mark.EVAL: "the evaluation",
    Mark.EXPORT: "the export {of}",
}
"""What a mark says is done."""


def standing(run: Path) -> str | None:
    """The last thing that a run has finished, in words; None where there is no run, or nothing that can be read."""
    ledger = run / "ledger.sqlite"
    if not ledger.is_file():
        return None
    try:
        with closing(sqlite3.connect(f"{ledger.absolute().as_uri()}?mode=ro", uri=True)) as db:
            last = db.execute(
                "SELECT name, detail FROM stages WHERE finished IS NOT NULL ORDER BY finished DESC LIMIT 1"
            ).fetchone()
            (answers,) = db.execute("SELECT count(*) FROM anchors").fetchone()
        if last is None:
            return f"{answers:,} of the teacher's answers" if answers else None
        mark = Mark.named(last[0])
        return _WORDS[mark].format(of=mark.of(last[0]), steps=json.loads(last[1]).get("steps"))
    except (sqlite3.Error, ValueError, KeyError, TypeError, AttributeError):  # it is said when the ledger is opened
        return None
