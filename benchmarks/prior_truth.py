"""The estimated class prior of each round of a run beside the true share, where the truth is known."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class PriorAndTruth:
    """One round's share of candidates that are as good as the anchor: estimated, with its interval, and true."""

    round: int
    estimate: float
    low: float
    high: float
    truth: float

    @property
    def error(self) -> float:
        """Estimate minus truth."""
        return self.estimate - self.truth


def priors_and_truth(ledger: Path, quality: Callable[[str, str], float]) -> list[PriorAndTruth]:
    """Compare what a run's `ledger.sqlite` has of each round; rounds without an estimate are left out.

    `quality` takes the prompt's last message and an answer, higher is better. A candidate is as good as the anchor if
    its quality is not lower: what counts as true beside a wrong anchor is every candidate.
    """
    with closing(sqlite3.connect(f"file:{ledger}?mode=ro", uri=True)) as db:
        estimates: dict[int, dict[str, float]] = {}
        for round, name, value in db.execute(
            "SELECT round, name, value FROM metrics WHERE stage = 'prefer' AND name GLOB 'class_prior_*' ORDER BY round"
        ):
            estimates.setdefault(round, {})[name.removeprefix("class_prior_")] = value
        good: dict[int, list[bool]] = {}
        for round, messages, candidate, anchor in db.execute(
            "SELECT c.round, p.messages, c.text, a.text FROM candidates AS c JOIN prompts AS p ON p.key = c.prompt_key "
            "JOIN anchors AS a USING (prompt_key)"
        ):
            prompt = json.loads(messages)[-1]["content"]
            good.setdefault(round, []).append(quality(prompt, candidate) >= quality(prompt, anchor))
    return [PriorAndTruth(n, **estimate, truth=sum(good[n]) / len(good[n])) for n, estimate in estimates.items()]
