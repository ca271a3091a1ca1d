"""The ledger's prompts and anchors."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

from pudistill_cli.prompts import Prompt
from pudistill_cli.run.sqlite_file import Tables, to_json
from pudistill_cli.teacher.answers import Answer
from pudistill_cli.types import Message, Tokens


class PromptTables(Tables):
    """What was asked, and what the teacher answered."""

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

    def refuse_anchor(self, key: str, detail: str) -> None:
        """Keep an answer, but not to be learned from; `detail` says why."""
        with self._file.transaction() as db:
            db.execute("UPDATE anchors SET status = 'refused', detail = ? WHERE prompt_key = ?", (detail, key))

    def add_anchor_tokens(self, tokens: Mapping[str, Tokens]) -> None:
        """The student's token ids of anchors, by prompt."""
        with self._file.transaction() as db:
            db.executemany(
                "UPDATE anchors SET tokens = ? WHERE prompt_key = ?",
                [(to_json(t), key) for key, t in tokens.items()],
            )

    def work_done(self) -> bool:
        """Whether a stage has finished once: from then on the anchors stay as they are."""
        return bool(self._file.rows("SELECT 1 FROM stages WHERE detail IS NOT NULL LIMIT 1"))

    def anchors(self) -> dict[str, Answer]:
        """Answers by prompt.

        Those of status "error" are left out, to be asked again, until `work_done`: from then on the set that is
        trained on stays as it is.
        """
        errors = "" if self.work_done() else "WHERE status <> 'error'"
        rows = self._file.rows(
            "SELECT prompt_key, text, status, finish_reason, reasoning_stripped, prompt_tokens, "
            f"completion_tokens, detail FROM anchors {errors}"
        )
        return {
            key: Answer(text, status, finish_reason, bool(stripped), *rest)
            for key, text, status, finish_reason, stripped, *rest in rows
        }
