"""The lines of people's files: their numbers, their JSON, and how many of them a message names."""

from __future__ import annotations

import pytest

from pudistill_cli.input_lines import counted, json_object, listed, numbered_lines


def test_lines_have_their_numbers_in_the_file() -> None:
    assert list(numbered_lines(b"\xef\xbb\xbfa\r\n\n  \nb\xff")) == [(1, b"a"), (4, b"b\xff")]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ('{"a": }', "not JSON (Expecting value at character 7)"),
        ("[1]", "not a JSON object"),
        ("[" * 100_000, "not JSON of a sane depth"),
    ],
)
def test_a_line_that_is_no_object_says_why(line: str, reason: str) -> None:
    with pytest.raises(ValueError) as error:
        json_object(line)
    assert str(error.value) == reason


def test_the_first_are_named_and_the_rest_counted() -> None:
    assert listed(["a", "b"], ", ", 2) == "a, b"
    assert listed(["a", "b", "c"], ", ", 2) == "a, b, and 1 more"
    assert (counted(1, "line"), counted(2000, "line")) == ("1 line", "2,000 lines")
