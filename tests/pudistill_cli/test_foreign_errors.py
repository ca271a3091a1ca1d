"""What libraries raise, as one line; and what passes through."""

from __future__ import annotations

import json

import pytest
from tokenizers import Regex, pre_tokenizers

from pudistill_cli.errors import BackendError, DataError, UsageError
from pudistill_cli.foreign_errors import as_data_error, reason_of


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (RecursionError("maximum recursion depth exceeded"), "it is nested too deeply"),
        (MemoryError(), "it asks for more memory than there is"),
        (UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid start byte"), "it is not UTF-8 text at byte 0"),
        (FileNotFoundError(2, "No such file or directory"), "No such file or directory"),
        (KeyError("shape"), "it lacks shape"),
        (ZeroDivisionError(), "ZeroDivisionError"),
        (ValueError("two\nlines \x1b[31mred\x07 and \ud800."), r"two lines \x1b[31mred\x07 and \ud800"),
        (RuntimeError("Overflow\nException raised from f at x.cpp:1\nframe #0"), "Overflow"),
        (ValueError("a" * 1000), "a" * 297 + "..."),
    ],
)
def test_a_reason_is_one_line_that_a_terminal_can_show(error: Exception, reason: str) -> None:
    assert reason_of(error) == reason


def test_whatever_a_library_raises_becomes_our_error() -> None:
    with pytest.raises(DataError) as caught, as_data_error("Cannot read x", "Copy it again."):
        json.loads("[" * 100_000)
    assert (caught.value.message, caught.value.hint) == ("Cannot read x: it is nested too deeply.", "Copy it again.")


def test_a_panic_in_rust_is_one_too_though_it_is_no_exception() -> None:
    split = pre_tokenizers.Split(Regex("(a+)+$"), "isolated")
    with pytest.raises(BackendError, match="retry-limit-in-match"), as_data_error("x", "y", BackendError):
        split.pre_tokenize_str("a" * 100 + "!")


@pytest.mark.parametrize("error", [UsageError("ours"), KeyboardInterrupt(), SystemExit(3), GeneratorExit()])
def test_our_own_errors_and_what_ends_the_process_pass_through(error: BaseException) -> None:
    with pytest.raises(type(error)) as caught, as_data_error("x", "y"):
        raise error
    assert caught.value is error
