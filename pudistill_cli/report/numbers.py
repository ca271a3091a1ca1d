"""Figures as a report writes them: intervals in columns of 80, shares in percent, their differences in points."""

from __future__ import annotations

from pudistill_cli.method.statistics import Interval


def interval_text(interval: Interval | None, *, signed: bool = False) -> str:
    """0.688 [.661, .715]: the bounds without their leading zero, so that four columns fit in 80."""
    if interval is None:
        return ""
    digits = _digits(interval.mean)
    mean, low, high = (f"{v:{'+' if signed else ''}.{digits}f}" for v in (interval.mean, interval.low, interval.high))
    return f"{mean} [{without_leading_zero(low)}, {without_leading_zero(high)}]"


def number(value: float) -> str:
    """0.688, as before an interval's bounds."""
    return f"{value:.{_digits(value)}f}"


def without_leading_zero(number: str) -> str:
    """.688 for 0.688, -.5 for -0.5."""
    return number.replace("0.", ".", 1) if number.lstrip("+-").startswith("0.") else number


def percent(share: float) -> str:
    """74.2 %, and 74 % where that is all."""
    return f"{round(100 * share, 1) + 0.0:.1f}".removesuffix(".0") + " %"


def points(gain: Interval) -> str:
    """+34.2 points [+30.8, +37.7]: a difference of two shares; without tenths where there are none."""
    values = [round(100 * value, 1) + 0.0 for value in (gain.mean, gain.low, gain.high)]  # + 0.0: no zero has a minus
    digits = 0 if all(value.is_integer() for value in values) else 1
    mean, low, high = (f"{value:{'+' if value else ''}.{digits}f}" for value in values)
    return f"{mean} {'point' if mean in ('+1', '-1') else 'points'} [{low}, {high}]"


def _digits(value: float) -> int:
    return next((d for least, d in ((100, 0), (10, 1), (2, 2)) if abs(value) >= least), 3)
