"""The ledger: prompts, anchors, candidates, scores, groups, metrics and stages of a run (docs/ledger.md).

Each method is one transaction, and doing a piece of work again replaces what it left before.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pudistill_cli.method.preferences import Targets
from pudistill_cli.method.statistics import Interval
from pudistill_cli.prompts import Prompt
from pudistill_cli.run.identity import STAGES, stage_of_mark
from pudistill_cli.run.sqlite_file import SqliteFile, to_json
from pudistill_cli.teacher.answers import Answer
from pudistill_cli.types import Candidate, Finish, Message, Tokens

VERSION = 1


@dataclass(frozen=True, slots=True)
class StoredAnswer:
    """An answer of the student to a held-out prompt."""

    text: str
    tokens: Tokens
    finish: Finish


@dataclass(frozen=True, slots=True)
class HeldAnswer:
    """A system's answer to a prompt, to be read."""

    system: str
    text: str
    score: float | None
    """By `eval.metric`; None without one."""


@dataclass(frozen=True, slots=True)
class GroupScores:
    """What one scorer gave a group."""

    candidates: NDArray[np.float64]
    """(K,) in the order of the candidates."""
    anchor: float | None
    """None where the anchor was not scored."""


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


class Ledger:
    """An open ledger; the file is created with the current schema where there is none.

    Raises:
        RunError: the file cannot be used, or a newer pudistill wrote it.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        schema = files("pudistill_cli.run").joinpath("schema.sql").read_text(encoding="utf-8")
        self._file = SqliteFile(path, schema, VERSION)

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    # --- prompts and anchors ---

    def add_prompts(self, prompts: Sequence[Prompt]) -> None:
        """Add or update prompts; of a prompt that comes twice, the first."""
        rows = [
            (
                p.key,
                p.split,
                to_json([{"role": m.role, "content": m.content} for m in p.messages]),
                p.reference,
                p.source,
                p.line,
            )
            for p in reversed(prompts)
        ]
        with self._file.transaction() as db:
            # An upsert: replacing the row would delete what refers to it.
            db.executemany(
                "INSERT INTO prompts VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT (key) DO UPDATE SET "
                "split = excluded.split, reference = excluded.reference, source = excluded.source, "
                "line = excluded.line",
                rows,
            )

    def prompts(self, split: str) -> list[Prompt]:
        """One set's prompts, in the order of their file."""
        return [
            Prompt(key, tuple(Message(**m) for m in json.loads(messages)), split, reference, source, line)
            for key, messages, reference, source, line in self._file.rows(
                "SELECT key, messages, reference, source, line FROM prompts WHERE split = ? ORDER BY source, line",
                split,
            )
        ]

    def add_anchor(self, key: str, answer: Answer, teacher: str) -> None:
        """The teacher's answer to a prompt, whatever its status."""
        with self._file.transaction() as db:
            db.execute(
                "INSERT OR REPLACE INTO anchors VALUES (?, ?, NULL, ?, ?, ?, ?, ?, ?, ?)",
                (
                    key,
                    answer.text,
                    answer.status,
                    answer.finish_reason,
                    answer.reasoning_stripped,
                    teacher,
                    answer.prompt_tokens,
                    answer.completion_tokens,
                    answer.detail,
                ),
            )

    def add_anchor_tokens(self, tokens: Mapping[str, Tokens]) -> None:
        """The student's token ids of anchors, by prompt."""
        with self._file.transaction() as db:
            db.executemany(
                "UPDATE anchors SET tokens = ? WHERE prompt_key = ?",
                [(to_json(t), key) for key, t in tokens.items()],
            )

    def anchors(self) -> dict[str, Answer]:
        """Answers by prompt.

        Those of status "error" are left out, to be asked again, until a stage has finished: from then on the
        set that is trained on stays as it is.
        """
        rows = self._file.rows(
            "SELECT prompt_key, text, status, finish_reason, reasoning_stripped, prompt_tokens, "
            "completion_tokens, detail FROM anchors "
            "WHERE status <> 'error' OR EXISTS (SELECT 1 FROM stages WHERE finished IS NOT NULL)"
        )
        return {
            key: Answer(text, status, finish_reason, bool(stripped), *rest)
            for key, text, status, finish_reason, stripped, *rest in rows
        }

    # --- groups ---

    def add_group(self, round: int, key: str, candidates: Sequence[Candidate], texts: Sequence[str]) -> None:
        """A prompt's candidates of a round; scores and preferences of those they replace go with them."""
        rows = [
            (round, key, k, to_json(c.tokens), text, c.finish, to_json(c.logprobs))
            for k, (c, text) in enumerate(zip(candidates, texts, strict=True))
        ]
        with self._file.transaction() as db:
            for table in ("candidates", "anchor_scores", "groups"):
                db.execute(f"DELETE FROM {table} WHERE round = ? AND prompt_key = ?", (round, key))
            db.executemany(
                "INSERT INTO candidates (round, prompt_key, k, tokens, text, finish, logprobs) "
                "VALUES (?, ?, ?, ?, ?, ?, ?)",
                rows,
            )

    def candidates(self, round: int) -> dict[str, list[Candidate]]:
        """The round's groups by prompt, as they were drawn."""
        groups: dict[str, list[Candidate]] = {}
        for key, tokens, logprobs, finish in self._file.rows(
            "SELECT prompt_key, tokens, logprobs, finish FROM candidates WHERE round = ? ORDER BY prompt_key, k",
            round,
        ):
            candidate = Candidate(_tokens(tokens), np.array(json.loads(logprobs), dtype=np.float32), finish)
            groups.setdefault(key, []).append(candidate)
        return groups

    def add_scores(self, round: int, key: str, scorer: str, scores: ArrayLike, anchor: float | None = None) -> None:
        """One scorer's (K,) scores of a group that is there, and the anchor's."""
        values = np.asarray(scores, dtype=np.float64)
        with self._file.transaction() as db:
            ids = [
                row[0]
                for row in db.execute(
                    "SELECT id FROM candidates WHERE round = ? AND prompt_key = ? ORDER BY k", (round, key)
                )
            ]
            db.executemany(
                "INSERT OR REPLACE INTO scores VALUES (?, ?, ?)",
                [(i, scorer, float(s)) for i, s in zip(ids, values, strict=True)],
            )
            db.execute(
                "DELETE FROM anchor_scores WHERE round = ? AND prompt_key = ? AND scorer = ?",
                (round, key, scorer),
            )
            if anchor is not None:
                db.execute("INSERT INTO anchor_scores VALUES (?, ?, ?, ?)", (round, key, scorer, float(anchor)))

    def scores(self, round: int, scorer: str) -> dict[str, GroupScores]:
        """One scorer's scores of a round, by prompt."""
        anchors = self.anchor_scores(round, scorer)
        values: dict[str, list[float]] = {}
        for key, score in self._file.rows(
            "SELECT prompt_key, score FROM candidates JOIN scores ON candidate_id = id "
            "WHERE round = ? AND scorer = ? ORDER BY prompt_key, k",
            round,
            scorer,
        ):
            values.setdefault(key, []).append(score)
        return {key: GroupScores(np.array(v), anchors.get(key)) for key, v in values.items()}

    def add_anchor_scores(self, round: int, scorer: str, scores: Mapping[str, float]) -> None:
        """One scorer's scores of anchors alone, by prompt: all or none are kept."""
        with self._file.transaction() as db:
            db.executemany(
                "INSERT OR REPLACE INTO anchor_scores VALUES (?, ?, ?, ?)",
                [(round, key, scorer, float(score)) for key, score in scores.items()],
            )

    def anchor_scores(self, round: int, scorer: str) -> dict[str, float]:
        """One scorer's scores of a round's anchors, by prompt."""
        return dict(
            self._file.rows("SELECT prompt_key, score FROM anchor_scores WHERE round = ? AND scorer = ?", round, scorer)
        )

    def add_targets(self, round: int, key: str, scorer: str, targets: Targets, scale: float) -> None:
        """What the update is told about a group; `scale` is the divisor of its scores."""
        pairs = [
            {"chosen": int(pair.argmax()), "rejected": int(pair.argmin()), "smoothing": float(smoothing)}
            for pair, smoothing in zip(targets.pairs, targets.pair_smoothing, strict=True)
        ]
        with self._file.transaction() as db:
            db.execute(
                "INSERT OR REPLACE INTO groups VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                (
                    round,
                    key,
                    scorer,
                    float(scale),
                    to_json(targets.member),
                    to_json(targets.label),
                    to_json(targets.advantage),
                    to_json(pairs),
                ),
            )

    def scales(self, round: int) -> dict[str, float]:
        """The divisors of the scores of a round's groups, by prompt; 0 where no candidate came to an end."""
        return dict(self._file.rows("SELECT prompt_key, scale FROM groups WHERE round = ?", round))

    # --- held-out answers ---

    def add_eval_answers(
        self, system: str, split: str, temperature: float, key: str, answers: Sequence[StoredAnswer]
    ) -> None:
        """A system's answers to one held-out prompt, sample by sample."""
        where = (system, split, float(temperature), key)
        with self._file.transaction() as db:
            db.execute(
                "DELETE FROM eval_answers WHERE system = ? AND split = ? AND temperature = ? AND prompt_key = ?",
                where,
            )
            db.executemany(
                "INSERT INTO eval_answers VALUES (?, ?, ?, ?, ?, ?, ?, ?, NULL)",
                [(*where, i, a.text, to_json(a.tokens), a.finish) for i, a in enumerate(answers)],
            )

    def add_eval_scores(
        self, system: str, split: str, temperature: float, scores: Mapping[str, Sequence[float]]
    ) -> None:
        """What `eval.metric` gave each sample, by prompt."""
        rows = [
            (float(score), system, split, float(temperature), key, i)
            for key, values in scores.items()
            for i, score in enumerate(values)
        ]
        with self._file.transaction() as db:
            db.executemany(
                "UPDATE eval_answers SET score = ? WHERE system = ? AND split = ? AND temperature = ? "
                "AND prompt_key = ? AND sample = ?",
                rows,
            )

    def eval_answers(self, system: str, split: str, temperature: float) -> dict[str, list[StoredAnswer]]:
        """A system's answers to one set, by prompt."""
        found: dict[str, list[StoredAnswer]] = {}
        for key, text, tokens, finish in self._file.rows(
            "SELECT prompt_key, text, tokens, finish FROM eval_answers "
            "WHERE system = ? AND split = ? AND temperature = ? ORDER BY prompt_key, sample",
            system,
            split,
            float(temperature),
        ):
            found.setdefault(key, []).append(StoredAnswer(text, _tokens(tokens), finish))
        return found

    def answers_to(self, key: str) -> list[HeldAnswer]:
        """Every system's first answer at the lowest temperature there is."""
        lowest: dict[str, HeldAnswer] = {}
        for found in self._file.rows(
            "SELECT system, text, score FROM eval_answers WHERE prompt_key = ? AND sample = 0 "
            "ORDER BY temperature, rowid",
            key,
        ):
            answer = HeldAnswer(*found)
            lowest.setdefault(answer.system, answer)
        return list(lowest.values())

    # --- metrics ---

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

    # --- stages ---

    def begin_stage(self, name: str) -> None:
        """Mark a stage as under way; one that was finished stays so, with what it ended with, until it is again.

        So an evaluation that is broken off leaves the run as finished as it was.
        """
        with self._file.transaction() as db:
            db.execute("INSERT OR IGNORE INTO stages (name) VALUES (?)", (name,))

    def finish_stage(self, name: str, detail: Mapping[str, Any]) -> None:
        """Mark a stage that was begun as done, with what it ended with."""
        with self._file.transaction() as db:
            db.execute(
                "UPDATE stages SET finished = strftime('%Y-%m-%dT%H:%M:%fZ', 'now'), detail = ? WHERE name = ?",
                (to_json(detail), name),
            )

    def begun(self) -> str | None:
        """When the first stage was begun or the first figure written, as ISO 8601 in UTC; None before that."""
        ((first,),) = self._file.rows(
            "SELECT min(at) FROM (SELECT started AS at FROM stages UNION ALL SELECT at FROM metrics)"
        )
        return first

    def stage_done(self, name: str) -> bool:
        """Whether a stage is finished."""
        return name in self.finished_stages()

    def finished_stages(self) -> set[str]:
        """Names of the finished stages."""
        return {name for (name,) in self._file.rows("SELECT name FROM stages WHERE finished IS NOT NULL")}

    def stage_detail(self, name: str) -> dict[str, Any]:
        """What a finished stage ended with."""
        ((detail,),) = self._file.rows("SELECT detail FROM stages WHERE name = ? AND finished IS NOT NULL", name)
        return json.loads(detail)

    def forget_from(self, stage: str, keep_answers_of: Sequence[str] = ()) -> None:
        """Drop what a stage of `identity.STAGES` and those after it left, to be done again.

        Held-out answers of the systems named stay where only `eval` and `export` are done again; rewrites, of rounds
        below 0, where SFT has learned from them and stays.
        """
        gone = STAGES[STAGES.index(stage) :]
        with self._file.transaction() as db:
            for table, first in (("prompts", "prompts"), ("anchors", "anchors"), ("candidates", "sft")):
                if first in gone:
                    db.execute(f"DELETE FROM {table}")
            if "prefer" in gone:
                db.execute(
                    "DELETE FROM candidates WHERE round >= 0 "
                    "OR NOT EXISTS (SELECT 1 FROM stages WHERE name = 'sft' AND finished IS NOT NULL)"
                )
                db.execute("DELETE FROM anchor_scores")
                db.execute("DELETE FROM groups")
            if "eval" in gone:
                kept = [] if "prefer" in gone else list(keep_answers_of)
                marks = ", ".join("?" * len(kept))
                db.execute(f"DELETE FROM eval_answers WHERE system NOT IN ({marks})", kept)
            for table, column in (("stages", "name"), ("metrics", "stage")):
                names = [n for (n,) in db.execute(f"SELECT DISTINCT {column} FROM {table}")]
                db.executemany(
                    f"DELETE FROM {table} WHERE {column} = ?",
                    [(n,) for n in names if stage_of_mark(n) in gone],
                )


def _tokens(text: str) -> Tokens:
    return tuple(json.loads(text))
