"""The ledger's answers to held-out prompts."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pudistill_cli.run.sqlite_file import Tables, to_json
from pudistill_cli.types import Finish, Tokens


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


class AnswerTables(Tables):
    """What each system answered to dev, test and further prompts, and how `eval.metric` scored it."""

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
        by_prompt: dict[str, list[StoredAnswer]] = {}
        for key, text, tokens, finish in self._file.rows(
            "SELECT prompt_key, text, tokens, finish FROM eval_answers "
            "WHERE system = ? AND split = ? AND temperature = ? ORDER BY prompt_key, sample",
            system,
            split,
            float(temperature),
        ):
            by_prompt.setdefault(key, []).append(StoredAnswer(text, tuple(json.loads(tokens)), finish))
        return by_prompt

    def answers_to(self, key: str) -> list[HeldAnswer]:
        """Every system's first answer at the lowest temperature there is."""
        lowest: dict[str, HeldAnswer] = {}
        for row in self._file.rows(
            "SELECT system, text, score FROM eval_answers WHERE prompt_key = ? AND sample = 0 "
            "ORDER BY temperature, rowid",
            key,
        ):
            answer = HeldAnswer(*row)
            lowest.setdefault(answer.system, answer)
        return list(lowest.values())
