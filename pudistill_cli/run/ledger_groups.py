"""The ledger's candidates, their scores, and the preferences made of them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pudistill_cli.method.preferences import Targets
from pudistill_cli.run.rollouts import Rollout
from pudistill_cli.run.sqlite_file import Tables, to_json
from pudistill_cli.types import Candidate


@dataclass(frozen=True, slots=True)
class GroupScores:
    """What one scorer gave a group."""

    candidates: NDArray[np.float64]
    """(K,) in the order of the candidates."""
    anchor: float | None
    """None where the anchor was not scored."""


class GroupTables(Tables):
    """Groups of candidates by what they were drawn for, scores, and preferences of the rounds' groups."""

    def add_group(self, rollout: Rollout, key: str, candidates: Sequence[Candidate], texts: Sequence[str]) -> None:
        """A prompt's candidates; scores and preferences of those they replace go with them."""
        where = (rollout.purpose.value, rollout.round, key)
        rows = [
            (*where, k, to_json(c.tokens), text, c.finish, to_json(c.logprobs))
            for k, (c, text) in enumerate(zip(candidates, texts, strict=True))
        ]
        with self._file.transaction() as db:
            for table in ("candidates", "anchor_scores"):
                db.execute(f"DELETE FROM {table} WHERE purpose = ? AND round = ? AND prompt_key = ?", where)
            db.execute("DELETE FROM groups WHERE round = ? AND prompt_key = ?", where[1:])
            db.executemany(
                "INSERT INTO candidates (purpose, round, prompt_key, k, tokens, text, finish, logprobs) "
                "VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                rows,
            )

    def candidates(self, rollout: Rollout) -> dict[str, list[Candidate]]:
        """The groups by prompt, as they were drawn."""
        groups: dict[str, list[Candidate]] = {}
        for key, tokens, logprobs, finish in self._file.rows(
            "SELECT prompt_key, tokens, logprobs, finish FROM candidates WHERE purpose = ? AND round = ? "
            "ORDER BY prompt_key, k",
            rollout.purpose.value,
            rollout.round,
        ):
            candidate = Candidate(tuple(json.loads(tokens)), np.array(json.loads(logprobs), dtype=np.float32), finish)
            groups.setdefault(key, []).append(candidate)
        return groups

    def add_scores(
        self, rollout: Rollout, key: str, scorer: str, scores: ArrayLike, anchor: float | None = None
    ) -> None:
        """One scorer's (K,) scores of a group that is there, and the anchor's."""
        self.add_all_scores(rollout, scorer, {key: GroupScores(np.asarray(scores, dtype=np.float64), anchor)})

    def add_all_scores(self, rollout: Rollout, scorer: str, scores: Mapping[str, GroupScores]) -> None:
        """One scorer's scores of groups that are there, by prompt: all or none are kept."""
        with self._file.transaction() as db:
            for key, given in scores.items():
                where = (rollout.purpose.value, rollout.round, key)
                ids = [
                    row[0]
                    for row in db.execute(
                        "SELECT id FROM candidates WHERE purpose = ? AND round = ? AND prompt_key = ? ORDER BY k", where
                    )
                ]
                db.executemany(
                    "INSERT OR REPLACE INTO scores VALUES (?, ?, ?)",
                    [(i, scorer, float(s)) for i, s in zip(ids, given.candidates, strict=True)],
                )
                db.execute(
                    "DELETE FROM anchor_scores WHERE purpose = ? AND round = ? AND prompt_key = ? AND scorer = ?",
                    (*where, scorer),
                )
                if given.anchor is not None:
                    db.execute(
                        "INSERT INTO anchor_scores VALUES (?, ?, ?, ?, ?)", (*where, scorer, float(given.anchor))
                    )

    def scores(self, rollout: Rollout, scorer: str) -> dict[str, GroupScores]:
        """One scorer's scores of the groups, by prompt."""
        anchors = self.anchor_scores(rollout, scorer)
        values: dict[str, list[float]] = {}
        for key, score in self._file.rows(
            "SELECT prompt_key, score FROM candidates JOIN scores ON candidate_id = id "
            "WHERE purpose = ? AND round = ? AND scorer = ? ORDER BY prompt_key, k",
            rollout.purpose.value,
            rollout.round,
            scorer,
        ):
            values.setdefault(key, []).append(score)
        return {key: GroupScores(np.array(v), anchors.get(key)) for key, v in values.items()}

    def add_anchor_scores(self, rollout: Rollout, scorer: str, scores: Mapping[str, float]) -> None:
        """One scorer's scores of anchors alone, by prompt: all or none are kept."""
        with self._file.transaction() as db:
            db.executemany(
                "INSERT OR REPLACE INTO anchor_scores VALUES (?, ?, ?, ?, ?)",
                [(rollout.purpose.value, rollout.round, key, scorer, float(s)) for key, s in scores.items()],
            )

    def anchor_scores(self, rollout: Rollout, scorer: str) -> dict[str, float]:
        """One scorer's scores of the anchors beside the groups, by prompt."""
        return dict(
            self._file.rows(
                "SELECT prompt_key, score FROM anchor_scores WHERE purpose = ? AND round = ? AND scorer = ?",
                rollout.purpose.value,
                rollout.round,
                scorer,
            )
        )

    def add_targets(self, round: int, key: str, scorer: str, targets: Targets, scale: float) -> None:
        """The preferences that a round's update learns from; `scale` is the divisor of the group's scores."""
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
