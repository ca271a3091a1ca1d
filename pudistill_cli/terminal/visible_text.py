"""Foreign text as it may be shown: what would steer a terminal, or hide or reorder text, becomes a visible symbol.

Models, teachers, file names and libraries say what they like. ESC is shown as ␛, a bidirectional override as <U+202E>;
no sequence (OSC 52, which writes the clipboard, OSC 8, CSI) begins without such a character. Marks that a script or an
emoji needs stay where it needs them.
"""

from __future__ import annotations

import json
import re
import unicodedata
from typing import Any

_SUSPECT = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\xad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u2028-\u202e"
    "\u2060-\u206f\u3164\ud800-\udfff\ufe00-\ufe0f\ufeff\uffa0\ufff0-\uffff\U00013430-\U0001343f"
    "\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e0fff]"
)
"""Controls but for tab and line feed; Unicode's Default_Ignorable_Code_Point; separators of lines; lone surrogates."""
_PLAIN = frozenset("\ufffc\ufffd")
"""In a range of the above, and a visible character."""
_JOINERS = frozenset("\u200c\u200d")
_EMOJI_JOINER = "\u200d"
_FLAGS = tuple("".join(chr(0xE0000 + ord(c)) for c in tag) + "\U000e007f" for tag in ("gbeng", "gbsct", "gbwls"))
"""What follows a black flag in England's, Scotland's and Wales'; any other tags hide text."""
_BLACK_FLAG = "\U0001f3f4"
_EMOJI_SELECTORS = frozenset("\ufe0e\ufe0f")


def visible(text: str) -> str:
    """The text for a terminal or a page; tabs and line feeds stay. What is visible already is not changed."""
    return text if text.isascii() and text.isprintable() else _SUSPECT.sub(_shown, text)


def visible_line(text: str) -> str:
    """The text for one line: a title, a table's cell. Tabs and line feeds are symbols too."""
    return visible(text).translate({0x09: "␉", 0x0A: "␊"})


def visible_json(value: Any, indent: int | None = None) -> str:
    """JSON in which such characters are escapes, so that it is safe on a terminal and exact for a program."""
    return _SUSPECT.sub(_escaped, json.dumps(value, ensure_ascii=False, default=str, indent=indent))


def _shown(found: re.Match[str]) -> str:
    character = found[0]
    if character in _PLAIN or _is_needed(character, found.string, found.start()):
        return character
    code = ord(character)
    if code < 0x20:
        return chr(0x2400 + code)
    return "␡" if code == 0x7F else f"<U+{code:04X}>"


def _is_needed(character: str, text: str, at: int) -> bool:
    """Whether the character before, and for some that behind, give it a meaning that readers know."""
    before = text[at - 1] if at else ""
    if not before:
        return False
    if character in _JOINERS:
        behind = text[at + 1 : at + 2]
        return _is_complex(before) or (character == _EMOJI_JOINER and _is_emoji(before) and _is_emoji(behind))
    if "\ufe00" <= character <= "\ufe0f":
        return _varies(before, emoji=character in _EMOJI_SELECTORS)
    if "\U000e0100" <= character <= "\U000e01ef":  # of Chinese characters
        return unicodedata.category(before) == "Lo" and before >= "\u3400" and not _SUSPECT.match(before)
    if "\u180b" <= character <= "\u180f":
        return "\u1820" <= before <= "\u18aa"
    if "\U000e0020" <= character <= "\U000e007f":
        flag = text.rfind(_BLACK_FLAG, max(0, at - len(_FLAGS[0])), at)
        return flag >= 0 and text.startswith(_FLAGS, flag + 1)
    return False


def _is_complex(character: str) -> bool:
    """Letters and marks of scripts that are written with joiners: Arabic, Indic, Mongolian; not Latin or Greek."""
    return character >= "\u0590" and unicodedata.category(character)[0] in "LM" and not _SUSPECT.match(character)


def _is_emoji(character: str) -> bool:
    """Or what may end one: a skin tone, a selector."""
    return character == "\ufe0f" or (character > "\x7f" and unicodedata.category(character) in ("So", "Sk", "Sm"))


def _varies(character: str, *, emoji: bool) -> bool:
    """Whether a character has other forms: symbols and digits as emoji, the others in print."""
    kinds = ("So", "Sm", "Po", "Sk", "Nd") if emoji else ("So", "Sm", "Po", "Lo", "Nd", "Mn", "Mc")
    return unicodedata.category(character) in kinds and not _SUSPECT.match(character)


def _escaped(found: re.Match[str]) -> str:
    character = found[0]
    if character in "\n\r\t" or character in _PLAIN:
        return character
    units = character.encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{units[i] << 8 | units[i + 1]:04x}" for i in range(0, len(units), 2))
