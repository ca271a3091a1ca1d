"""What an answer has to hold: a pattern, in bounded time, or strings."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from pudistill_cli.metrics.patterns import LONGEST_PATTERN, Contains, Regex


@pytest.mark.parametrize(
    ("pattern", "answer", "score"),
    [
        ("b", "abc", 1),  # anywhere
        ("^b", "abc", 0),
        (r"^(yes|no)$", " yes\n", 1),
        (r"^(yes|no)$", "yes\nno", 0),
        ("YES", "yes", 0),
        ("(?i)YES", "yes", 1),
        (r"^\{.*\}$", "{\n}", 0),
        (r"(?s)^\{.*\}$", "{\n}", 1),
        (r"^\p{Lu}", "Émile", 1),
        ("x", "", 0),
        ("^$", "", 1),
        (".", "\ud83d", 1),  # half of a surrogate pair
    ],
)
def test_a_pattern_is_found_or_not(pattern: str, answer: str, score: float):
    assert Regex(pattern=pattern)(answer, "the reference says nothing", "") == score
    assert Regex(pattern=pattern).alone(answer) == score


@pytest.mark.parametrize(
    "pattern",
    [
        "(a+)+$",
        "(a|aa)+$",
        "(a*)*b",
        ".*.*.*.*.*.*=",
        "(x+x+)+y" * 100,
        "(?:(?:a?){50}a{50}){10}x",
        "(a|b)*a(a|b){900}x",
    ],
)
def test_patterns_that_make_other_engines_hang_take_no_time(pattern: str):
    """2^n or n^6 steps where an engine backtracks; were it one, this test would not end."""
    assert Regex(pattern=pattern).alone("a" * 50_000 + "!") == 0


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("(a{1000}){1000}", "invalid repetition size"),
        (r"[\p{L}\p{N}]{1000}x", "pattern too large"),
        ("(", "missing"),
        ("(?=a)", "which has no look-around"),
        (r"(a)\1", "invalid escape"),
        ("", "at least 1 character"),
        ("a" * (LONGEST_PATTERN + 1), "at most 1000"),
    ],
)
def test_patterns_that_are_refused(pattern: str, message: str):
    with pytest.raises(ValidationError, match=message):
        Regex(pattern=pattern)


def test_the_share_of_strings_that_are_there():
    metric = Contains(strings=["refund", "14 days", "Regards"])
    assert metric("A refund within 14 days.", "", "") == 2 / 3
    assert metric.alone("Refund? regards") == 0
    assert Contains(strings=["refund", "STRASSE"], ignore_case=True).alone("Refund, Straße") == 1


def test_patterns_are_right_or_wrong_and_strings_are_not():
    assert Regex(pattern="a").is_share
    assert not Contains(strings=["a"]).is_share
