"""What each round of a run was worth, from its ledger, where the truth is known."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.prior_truth import priors_and_truth
from pudistill_cli.method.claims import Check, Group, concentration, order

Quality = Callable[[str, str], float]
"""(the prompt's last message, an answer) -> its grade."""


def rounds(ledger: Path, quality: Quality) -> list[dict[str, Any]]:
    """Per round: class prior and truth, pair accuracy, concentration of the labels, and the candidates' mean grade."""
    priors = {p.round: p for p in priors_and_truth(ledger, quality)}
    lines: list[dict[str, Any]] = []
    for number, (groups, grade) in ranked(ledger, quality).items():
        line: dict[str, Any] = {"round": number, "grade": round(grade, 4)}
        if number in priors:
            line["prior"] = {k: round(v, 4) for k, v in asdict(priors[number]).items() if k != "round"}
        line["order"] = _value(order(groups, seed=0))
        line["concentration"] = _value(concentration(groups, seed=0))
        lines.append(line)
    return lines


def ranked(ledger: Path, quality: Quality) -> dict[int, tuple[list[Group], float]]:
    """Per round that was ranked, its groups without truncated candidates, and the mean grade of all its candidates."""
    with closing(sqlite3.connect(f"file:{ledger}?mode=ro", uri=True)) as db:
        candidates: dict[tuple[int, str], list[tuple[str, str, str]]] = {}
        for number, key, *row in db.execute(
            "SELECT round, prompt_key, messages, tokens, text FROM candidates JOIN prompts ON key = prompt_key "
            "ORDER BY round, prompt_key, k"
        ):
            candidates.setdefault((number, key), []).append((row[0], row[1], row[2]))
        by_round: dict[int, tuple[list[Group], list[float]]] = {}
        for number, key, member, label, advantage in db.execute(
            "SELECT round, prompt_key, member, label, advantage FROM groups ORDER BY round, prompt_key"
        ):
            rows = candidates[number, key]
            grades = np.array([quality(json.loads(m)[-1]["content"], text) for m, _, text in rows])
            whole = np.array(json.loads(member))[: len(rows)] > 0
            answers = [tokens for _, tokens, _ in rows]
            slots = np.array([1 / answers.count(a) for a in answers])
            scores, d = (np.array(json.loads(text))[: len(rows)] for text in (advantage, label))
            groups, every = by_round.setdefault(number, ([], []))
            groups.append(Group(scores[whole], d[whole], slots[whole], grades[whole]))
            every.extend(grades.tolist())
    return {number: (groups, float(np.mean(every))) for number, (groups, every) in by_round.items()}


def _value(check: Check) -> list[float] | None:
    return None if check.value is None else [round(x, 4) for x in (check.value.mean, check.value.low, check.value.high)]
