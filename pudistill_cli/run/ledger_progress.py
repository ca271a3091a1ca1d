"""The ledger's figures, and its marks of what is under way and finished."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pudistill_cli.method.statistics import Interval
from pudistill_cli.run.ledger_sums import Sums, insert_sums
from pudistill_cli.run.marks import MarkName
from pudistill_cli.run.sqlite_file import Tables, to_json


@dataclass(frozen=True, slots=True)
class Metric:
    """One figure, with its interval where it has one; NaN where it is not defined."""

    stage: str
    round: int
    step: int
    name: str
    value: float
    low: float | None
    high: float | None


class ProgressTables(Tables):
    """Figures by stage, round and step, and the marks (marks.py)."""

    def add_metrics(self, stage: str, round: int, step: int, values: Mapping[str, float | Interval]) -> None:
        """Figures of a step; an `Interval` keeps its bounds."""
        rows = [
            (
                stage,
                round,
                step,
                name,
                *((v.mean, v.low, v.high) if isinstance(v, Interval) else (v, None, None)),
            )
            for name, v in values.items()
        ]
        with self._file.transaction() as db:
            # SQLite keeps NaN as NULL.
            db.executemany(
                "INSERT OR REPLACE INTO metrics (stage, round, step, name, value, low, high) "
                "VALUES (?, ?, ?, ?, ?, ?, ?)",
                rows,
            )

    def metrics(self, stage: str) -> list[Metric]:
        """A stage's figures by round, step and time."""
        rows = self._file.rows(
            "SELECT stage, round, step, name, value, low, high FROM metrics WHERE stage = ? ORDER BY round, step, id",
            stage,
        )
        return [
            Metric(stage, round, step, name, math.nan if value is None else value, low, high)
            for stage, round, step, name, value, low, high in rows
        ]

    def figures(self) -> list[dict[str, Any]]:
        """The figures as `metrics.jsonl` has them: a record for what came together, None where one is not defined."""
        records: list[dict[str, Any]] = []
        for stage, round, step, name, value in self._file.rows(
            "SELECT stage, round, step, name, value FROM metrics WHERE stage <> 'eval' ORDER BY id"
        ):
            where = {"stage": stage, "round": round, "step": step}
            if not records or where != {key: records[-1][key] for key in where} or name in records[-1]:
                records.append(where)
            records[-1][name] = value
        return records

    def begin_stage(self, name: MarkName) -> None:
        """Mark a stage as under way; one that was finished stays so, with what it ended with, until it is again.

        So an evaluation that is broken off leaves the run as finished as it was.
        """
        with self._file.transaction() as db:
            db.execute("INSERT OR IGNORE INTO stages (name) VALUES (?)", (name,))

    def finish_stage(
        self, name: MarkName, detail: Mapping[str, Any], sums: Sums | None = None, over: MarkName | None = None
    ) -> None:
        """Mark a stage that was begun as done, with what it ended with and the sums of what it left.

        The mark `over` goes with it.
        """
        with self._file.transaction() as db:
            db.execute("DELETE FROM stages WHERE name = ?", (over,))
            db.execute(
                "UPDATE stages SET finished = strftime('%Y-%m-%dT%H:%M:%fZ', 'now'), detail = ? WHERE name = ?",
                (to_json(detail), name),
            )
            insert_sums(db, sums or {})

    def unfinish_stages(self, names: Sequence[MarkName]) -> None:
        """Take marks back: what the stages left is damaged, and they are done again. They stay begun."""
        with self._file.transaction() as db:
            db.executemany("UPDATE stages SET finished = NULL WHERE name = ?", [(name,) for name in names])

    def stage_begun(self, name: MarkName) -> bool:
        """Whether a stage is under way or finished."""
        return bool(self._file.rows("SELECT 1 FROM stages WHERE name = ?", name))

    def forget_stage(self, name: MarkName) -> None:
        """Drop a mark: it was not begun."""
        with self._file.transaction() as db:
            db.execute("DELETE FROM stages WHERE name = ?", (name,))

    def begun(self) -> str | None:
        """When the first stage was begun or the first figure written, as ISO 8601 in UTC; None before that."""
        ((first,),) = self._file.rows(
            "SELECT min(at) FROM (SELECT started AS at FROM stages UNION ALL SELECT at FROM metrics)"
        )
        return first

    def stage_done(self, name: MarkName) -> bool:
        """Whether a stage is finished."""
        return name in self.finished_stages()

    def finished_stages(self) -> set[MarkName]:
        """The marks of what is finished."""
        return {MarkName(name) for (name,) in self._file.rows("SELECT name FROM stages WHERE finished IS NOT NULL")}

    def stage_detail(self, name: MarkName) -> dict[str, Any]:
        """What a finished stage ended with."""
        ((detail,),) = self._file.rows("SELECT detail FROM stages WHERE name = ? AND finished IS NOT NULL", name)
        return json.loads(detail)
