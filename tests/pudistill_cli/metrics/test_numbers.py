"""Which number of a text counts, and how far off it may be."""

from __future__ import annotations

from decimal import Decimal

import pytest

from pudistill_cli.metrics.numbers import Number, last_number


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("It is 42.", "42"),
        ("First 3, then 4", "4"),
        ("#### 1,234,567.5", "1234567.5"),
        ("1,2345", "2345"),  # no thousands
        ("[1,2,3]", "3"),
        ("3,14", "14"),  # a comma is no decimal point
        ("-7", "-7"),
        ("x = -7", "-7"),
        ("10-5", "5"),
        ("x-5", "5"),
        ("(a)-5", "5"),
        ("2024-11-30", "30"),
        ("−3.5 degrees", "-3.5"),
        ("-$5.00", "-5.00"),
        ("€ 12", "12"),
        ("答案是-42", "-42"),
        (".5", "0.5"),
        ("1.2.3", "3"),
        ("1e-3", "0.001"),
        ("2E+2 m", "200"),
        ("7e", "7"),
        ("50%", "50"),
        ("+6", "6"),
        ("٤٢", "42"),
    ],
)
def test_the_last_number_of_a_text(text: str, number: str):
    assert last_number(text) == Decimal(number)


@pytest.mark.parametrize("text", ["", "none", "-", "1e99999999999999999999999", "²"])
def test_texts_without_a_number(text: str):
    assert last_number(text) is None


@pytest.mark.parametrize(
    ("answer", "reference", "settings", "score"),
    [
        ("42", "forty-two is 42.0", {}, 1),
        ("42.001", "42", {}, 0),
        ("12345678901234567890123", "12345678901234567890124", {}, 0),
        ("3.15", "3.14", {"absolute": 0.01}, 1),  # to the point, in decimals
        ("3.1501", "3.14", {"absolute": 0.01}, 0),
        ("101", "100", {"relative": 0.01}, 1),
        ("100", "101", {"relative": 0.0099}, 0),  # of the reference: 0.9999
        ("-101", "-100", {"relative": 0.01}, 1),
        ("0.001", "0", {"relative": 0.5}, 0),
        ("0.001", "0", {"relative": 0.5, "absolute": 0.001}, 1),  # either is enough
        ("none", "42", {"absolute": 1e9}, 0),
        ("42", "none", {"absolute": 1e9}, 0),
        ("1e99999999", "1e99999999", {}, 1),
        ("1e99999999", "1", {"absolute": 1.0}, 0),
        ("1" * 20_000, "1", {"relative": 0.1}, 0),
    ],
)
def test_tolerances(answer: str, reference: str, settings: dict[str, float], score: float):
    assert Number(**settings)(answer, reference, "the prompt") == score


def test_without_a_reference_there_must_be_a_number():
    assert Number().alone("about 3 of them") == 1
    assert Number().alone("about three of them") == 0
    assert Number().problem("three") == "has no number"
    assert Number().problem("3") is None
