"""Evaluations of scorers as two tables that fit in 80 columns, as JSON, and in one sentence."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from pudistill_cli.judging.evaluation import ScorerEvaluation
from pudistill_cli.method.statistics import Interval
from pudistill_cli.terminal.console import PlainTable


def tables(evaluations: Sequence[ScorerEvaluation]) -> list[PlainTable]:
    """Agreement with gold, then what else is true of each scorer."""
    agreement = _table("scorer", "accuracy", "Kendall", "AUC")
    beside = _table("scorer", "orders", "length", "tokens", "ms")
    for e in evaluations:
        m = e.measures
        agreement.add_row(e.scorer, _cell(m.accuracy), _cell(m.kendall), _cell(m.auc))
        beside.add_row(e.scorer, _cell(e.orders), _cell(m.length), _cell(e.tokens), f"{1000 * e.seconds:,.1f}")
    return [agreement, beside]


LEGEND = (
    "accuracy: pairs within a group ordered as gold has them, a tie counts half; Kendall: tau-b within groups; "
    "AUC: above the median grade, over all groups; orders: pairs decided alike in both orders; length: tau-b of score "
    "and length; tokens, ms: read and spent for one judgement. Brackets: 95 % bootstrap intervals over prompts."
)


def as_json(evaluations: Sequence[ScorerEvaluation]) -> list[dict[str, Any]]:
    """One object a scorer; null where there was nothing to measure."""
    objects: list[dict[str, Any]] = []
    for evaluation in evaluations:
        fields = asdict(evaluation)
        objects.append({"scorer": fields.pop("scorer"), **fields.pop("measures"), **fields})
    return objects


def conclusion(evaluations: Sequence[ScorerEvaluation]) -> str:
    """Which scorer to use, if any, as one sentence."""
    known = [(e, e.measures.accuracy) for e in evaluations if e.measures.accuracy is not None]
    if not known:
        return "No group has answers of unequal grades, so nothing can be said about who judges well."
    best, accuracy = max(known, key=lambda pair: pair[1].mean)
    if accuracy.low <= 0.5:
        return f"No scorer is better than chance here: the best, {best.scorer}, may be a coin ({_cell(accuracy)})."
    level = [e.scorer for e, other in known if e is not best and other.high >= accuracy.mean]
    beside = f" Not clearly worse: {', '.join(level)}." if level else ""
    return f"Best within groups: {best.scorer} ({_cell(accuracy)}).{beside}"


def _table(*columns: str) -> PlainTable:
    table = PlainTable(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        name = column == "scorer"
        table.add_column(column, justify="left" if name else "right", overflow="fold", no_wrap=not name)
    return table


def _cell(interval: Interval | None) -> str:
    """0.913 [.89, .94]: the bounds without their leading zero, so that four columns fit in 80."""
    if interval is None:
        return "-"
    digits = 0 if abs(interval.mean) >= 10 else 3
    low, high = (_bare(f"{value:,.{max(digits - 1, 0)}f}") for value in (interval.low, interval.high))
    return f"{interval.mean:,.{digits}f} [{low}, {high}]"


def _bare(number: str) -> str:
    return number.replace("0.", ".", 1) if number.lstrip("-").startswith("0.") else number
