"""Patterns that real tokenizers have, and those that would not come back."""

from __future__ import annotations

import pytest

from pudistill_cli.models.regex_limits import check_pattern

REAL = (
    r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+",  # GPT-2
    r"(?i:'s|'t|'re|'ve|'m)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\s+",
    r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*",
    r"[^\r\n\p{L}\p{N}]?(?:\p{L}\p{M}*(?: \p{L}\p{M}*)*)+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]?",
    r"[^\r\n\p{L}\p{N}]?((?=[\p{L}])([^a-z]))*((?=[\p{L}])([^A-Z]))+(?:'[sS]|'[tT])?",
    r"\d{1,3}(?=(?:\d{3})*\b)",
    r"(?:\r?\n)+(?!\r?\n)",
    r"(IMGIMG)((A|B|C|D|E|F|G|H|I){1,4})Z",
    r" ?[^(\s|[.,!?…。，、।۔،])]+",
    r"[\p{Han}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}&&[^\p{Han}]]*",
    r"\s{512}(?!\S)|\s{1,2}(?!\S)",
    r"(?#a comment (of letters)a",
    "{",
    "a{,}",
    "",
)


@pytest.mark.parametrize("pattern", REAL)
def test_what_real_tokenizers_have_passes(pattern: str) -> None:
    check_pattern(pattern)


@pytest.mark.parametrize(
    "pattern",
    [
        r"(a+)+$",
        r"(?:.*)*x",
        r"(a|a)*b",
        r"([a-z ]+)*[0-9]",
        r"(?:\w+\s?)*!x",
        r"\w*\w*!",  # 18 seconds at 2,000 letters
        r"[\s\S]*[\s\S]*\x00",
        r"\w*(?:\w*!)",
        r"(?:\w*)\w*!",
        r"(\w*|x)\w*y",
        r"\w*(?=\w*!)",
        r"(?=\w*\w*!)a",
        r"\w+\s*\w+\s*x",
        r"\w*\w*$",
        r"\w*\w*\b",
        r"(?i)\w*\w*!",
        r"(?<name>\w*)\w*!",
        r"[]a]*[^]a]*!",
        "a?" * 30 + "b",
        r"(?:a?b?){20}c",
    ],
)
def test_what_goes_back_too_often_is_refused(pattern: str) -> None:
    with pytest.raises(ValueError, match="takes too long where a text does not match"):
        check_pattern(pattern)


@pytest.mark.parametrize(
    ("pattern", "said"),
    [
        (r"(\w+)\s\1", "refers to its own groups"),
        (r"(?<p>\((?:[^()]|\g<p>)*\))", "refers to its own groups"),
        ("(" * 40 + "a" + ")" * 40, "nested more than 32 deep"),
        ("a" * 10_000, "more than 8,192 characters"),
        ("a{2000}", "more than 1,000 times"),
        ("(?{code})", "group of an unknown kind"),
    ],
)
def test_what_is_never_needed_is_refused(pattern: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        check_pattern(pattern)


@pytest.mark.parametrize("pattern", ["(", ")", "[", "[^", "\\", "a{1,", "(?<", "(?#", "\\p{L", "|", "*"])
def test_what_is_no_pattern_is_left_to_the_library(pattern: str) -> None:
    check_pattern(pattern)


def test_short_texts_may_have_more_repeats() -> None:
    with pytest.raises(ValueError, match="takes too long"):
        check_pattern(r".*language_model.*_proj")
    check_pattern(r".*language_model.*_proj", repeats=3)
