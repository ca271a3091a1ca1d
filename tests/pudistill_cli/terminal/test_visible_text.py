"""What would steer a terminal or hide text is shown; what scripts and emoji need stays."""

from __future__ import annotations

import json
import unicodedata

import pytest

from pudistill_cli.terminal.visible_text import visible, visible_json, visible_line


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b]52;c;cm0gLXJm\x07", "␛]52;c;cm0gLXJm␇"),  # OSC 52 writes the clipboard
        ("\x1b]8;;http://evil\x1b\\here\x1b]8;;\x1b\\", "␛]8;;http://evil␛\\here␛]8;;␛\\"),
        ("\x1b[2J\x1b[1;31m", "␛[2J␛[1;31m"),
        ("\x9b31m \x9d0;t\x9c \x85", "<U+009B>31m <U+009D>0;t<U+009C> <U+0085>"),
        ("all right\rall wrong\x08\x7f\x00", "all right␍all wrong␈␡␀"),
        ("a\u202ecba\u202c \u2066b\u2069", "a<U+202E>cba<U+202C> <U+2066>b<U+2069>"),
        ("\u200e\u200f\u061c", "<U+200E><U+200F><U+061C>"),
        ("pass\u200bword\u2060\ufeff\xad", "pass<U+200B>word<U+2060><U+FEFF><U+00AD>"),
        ("one\u2028two\u2029three", "one<U+2028>two<U+2029>three"),
        ("\ud800 \udcff", "<U+D800> <U+DCFF>"),
        ("hidden\U000e0068\U000e0069", "hidden<U+E0068><U+E0069>"),  # tags, which models read and people do not see
        ("❤\ufe0f\ufe01\ufe02", "❤\ufe0f<U+FE01><U+FE02>"),  # bytes hidden in selectors
        ("a\u200db \u200d", "a<U+200D>b <U+200D>"),
        ("\u3164\u115f", "<U+3164><U+115F>"),
    ],
)
def test_what_deceives_is_shown(text: str, shown: str) -> None:
    assert visible(text) == shown
    assert visible(shown) == shown


@pytest.mark.parametrize(
    "text",
    [
        "plain, with a\ttab\nand a line",
        "naïve Ελληνικά русский 日本語 한국어 � ￼",
        "می‌خواهم نامه‌ای",  # Persian, with joiners between letters
        "क्‍ष ශ්‍රී ക്‍",  # Indic, behind a virama
        "👨‍👩‍👧 👩🏽‍🚀 🏳️‍🌈 ❤️‍🔥 ⛹🏿‍♀️ 🧑‍⚕️ 1️⃣ ©️",
        "🏴󠁧󠁢󠁥󠁮󠁧󠁿 🏴󠁧󠁢󠁷󠁬󠁳󠁿",
        "葛\U000e0100城市",
        "٤٢ ﷽ \u0601",  # an Arabic sign that is a format character with a form of its own
    ],
)
def test_what_is_written_with_joiners_stays(text: str) -> None:
    assert visible(text) == text


def test_no_control_of_any_kind_is_left() -> None:
    everything = " ".join(map(chr, range(0x110000)))
    left = {c for c in visible(everything) if unicodedata.category(c) in ("Cc", "Cs", "Zl", "Zp")}
    assert left == {"\n", "\t"}
    steering = {"LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI"}
    bidirectional = {c for c in visible(everything) if unicodedata.bidirectional(c) in steering}
    assert bidirectional == set()


def test_a_line_has_no_line_feed_and_no_tab() -> None:
    assert visible_line("a\n\terror: b") == "a␊␉error: b"


@pytest.mark.parametrize("text", ['\x1b]52;c;x\x07\x9b\x7f\u202e\ud800\U000e0068\n\t\r"\\', "naïve 日本語"])
def test_json_is_safe_and_exact(text: str) -> None:
    line = visible_json({text: [text]})
    assert json.loads(line) == {text: [text]}
    assert visible(line) == line
    assert "日本語" in visible_json("日本語")
