"""The ledger: prompts, anchors, candidates, scores, groups, metrics and stages of a run (docs/ledger.md).

Each method is one transaction, and doing a piece of work again replaces what it left before.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from importlib.resources import files
from pathlib import Path

from pudistill_cli.config.stages import Stage
from pudistill_cli.run.ledger_answers import AnswerTables
from pudistill_cli.run.ledger_groups import GroupTables
from pudistill_cli.run.ledger_progress import ProgressTables
from pudistill_cli.run.ledger_prompts import PromptTables
from pudistill_cli.run.ledger_seal import unseal
from pudistill_cli.run.ledger_sums import SumTables, made_by
from pudistill_cli.run.marks import Mark
from pudistill_cli.run.rollouts import Purpose, round_of
from pudistill_cli.run.sqlite_file import SqliteFile

VERSION = 3
OTHER_METRICS = {Stage.SFT: "sft-dev", Stage.EVAL: "dev"}
"""The `stage` of dev's figures: in SFT they say when it ends; of a round, only what is exported."""


class Ledger(PromptTables, GroupTables, AnswerTables, ProgressTables, SumTables):
    """An open ledger; the file is created with the current schema where there is none, an older one is migrated.

    Raises:
        RunError: the file cannot be used, or a newer pudistill wrote it.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        here = files("pudistill_cli.run")
        schema = here.joinpath("schema.sql").read_text(encoding="utf-8")
        migrations = {
            older: here.joinpath(f"migrate_{older}_to_{older + 1}.sql").read_text(encoding="utf-8")
            for older in range(1, VERSION)
        }
        super().__init__(SqliteFile(path, schema, VERSION, migrations, partial(unseal, path)))

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def forget_from(self, first: Stage, keep_answers_of: Sequence[str] = ()) -> None:
        """Drop what a stage and those after it left, to be done again.

        Held-out answers of the systems named stay where only `eval` and `export` are done again.
        """
        gone = [stage for stage in Stage if not stage.precedes(first)]
        with self._file.transaction() as db:
            for stage, table in ((Stage.PROMPTS, "prompts"), (Stage.ANCHORS, "anchors"), (Stage.SFT, "candidates")):
                if stage in gone:
                    db.execute(f"DELETE FROM {table}")
            if Stage.PREFER in gone:
                db.execute("DELETE FROM candidates WHERE purpose <> ?", (Purpose.REWRITE.value,))  # SFT's
                db.execute("DELETE FROM anchor_scores")
                db.execute("DELETE FROM groups")
            if Stage.EVAL in gone:
                kept = [] if Stage.PREFER in gone else list(keep_answers_of)
                marks = ", ".join("?" * len(kept))
                db.execute(f"DELETE FROM eval_answers WHERE system NOT IN ({marks})", kept)
            names = [name for (name,) in db.execute("SELECT name FROM stages")]
            db.executemany("DELETE FROM stages WHERE name = ?", [(n,) for n in names if Mark.named(n).stage in gone])
            of_sums = [name for (name,) in db.execute("SELECT DISTINCT name FROM sums")]
            db.executemany("DELETE FROM sums WHERE name = ?", [(n,) for n in of_sums if made_by(n) in gone])
            of_metrics = [stage.title for stage in gone]
            of_metrics += [name for stage, name in OTHER_METRICS.items() if stage in gone]
            db.executemany("DELETE FROM metrics WHERE stage = ?", [(name,) for name in of_metrics])

    def forget_after_round(self, number: int) -> None:
        """Drop what came of the adapter that a round left, or for 0 SFT: the later rounds, evaluation and exports."""
        if not number:
            self.forget_from(Stage.RANK)
            return
        self.forget_from(Stage.EVAL, ["base", "sft", *(f"round-{n}" for n in range(1, number))])
        with self._file.transaction() as db:
            for table in ("candidates", "anchor_scores", "groups"):
                db.execute(f"DELETE FROM {table} WHERE round > ?", (number,))
            db.execute("DELETE FROM metrics WHERE stage = ? AND round > ?", (Stage.PREFER.title, number))
            marks = [name for (name,) in db.execute("SELECT name FROM stages")]
            later = [n for n in marks if Mark.named(n).stage is Stage.PREFER and round_of(n) > number]
            db.executemany("DELETE FROM stages WHERE name = ?", [(name,) for name in later])
            kept = [name for (name,) in db.execute("SELECT DISTINCT name FROM sums")]
            db.executemany("DELETE FROM sums WHERE name = ?", [(n,) for n in kept if round_of(n) > number])
