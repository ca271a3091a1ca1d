"""Whether a regular expression can be matched in a bounded time, seen from how it is written.

The library behind `tokenizers` (Oniguruma) goes back and tries again. A repeat within a repeat makes it try exponentially
many ways, a back reference or a call of a group too; what is left takes a power of the text's length, as real patterns do.
"""

from __future__ import annotations

from dataclasses import dataclass

_LONGEST = 8192
_DEEPEST = 32
_MOST_REPEATS = 6
"""Repeats without an end one after another: with n of them a text of length L can take L ** n steps. Real patterns
have 3."""


@dataclass(slots=True)
class _Group:
    """An open group: what was seen in it so far."""

    varies: bool = False
    """It holds a repeat of no fixed count, or alternatives: it can match in several ways."""
    optional: int = 0
    """Characters in it that may be left out; one alone is common: a line's end is \\r?\\n."""
    in_a_row: int = 0
    """Repeats without an end in the alternative that is read."""
    most_in_a_row: int = 0
    looks: bool = False
    """It only looks, ahead or behind, and matches once."""


@dataclass(slots=True)
class _Repeat:
    """A quantifier, and where the pattern goes on."""

    end: int
    open: bool
    """Without an upper end that is small."""
    varies: bool
    """Of no fixed count."""
    optional: bool = False
    """Once, or not at all."""


def check_pattern(pattern: str) -> None:
    """See that a pattern is one whose matching takes a bounded time.

    Raises:
        ValueError: why it may not.
    """
    if len(pattern) > _LONGEST:
        raise ValueError(f"a regular expression of it has more than {_LONGEST:,} characters")
    groups = [_Group()]
    last: _Group | None = None
    """The group that was closed right before this place."""
    i, atom = 0, False
    while i < len(pattern):
        character = pattern[i]
        repeat = _repeat_at(pattern, i) if atom else None
        if repeat is not None:
            _take(groups[-1], repeat, last, pattern)
            i, last = repeat.end, None
            continue
        last, atom = None, True
        if character == "\\":
            _refuse_reference(pattern, i)
            i = _behind_escape(pattern, i)
        elif character == "[":
            i = _behind_class(pattern, i)
        elif character == "(":
            if len(groups) > _DEEPEST:
                raise ValueError(f"a regular expression of it is nested more than {_DEEPEST} deep")
            kind, i = _opening(pattern, i)
            if kind is not None:
                groups.append(_Group(looks=kind == "look"))
            atom = False
        elif character == ")":
            last = _close(groups)
            i += 1
        else:
            if character == "|":
                groups[-1].varies, groups[-1].in_a_row, atom = True, 0, False
            elif character in "^$":
                atom = False
            i += 1
    while len(groups) > 1:  # the library says that it is not closed
        _close(groups)
    if groups[0].most_in_a_row > _MOST_REPEATS:
        raise ValueError(f"a regular expression of it has more than {_MOST_REPEATS} repeats in a row: {_shown(pattern)}")


def _take(group: _Group, repeat: _Repeat, repeated: _Group | None, pattern: str) -> None:
    if repeat.open:
        if repeated is not None and (repeated.varies or repeated.optional > 1) and not repeated.looks:
            raise ValueError(f"a regular expression of it repeats what is repeated already: {_shown(pattern)}")
        group.in_a_row += 1
        group.most_in_a_row = max(group.most_in_a_row, group.in_a_row)
    if repeat.optional and repeated is None:
        group.optional += 1
    else:
        group.varies = group.varies or repeat.varies


def _close(groups: list[_Group]) -> _Group | None:
    if len(groups) == 1:  # the library says that one bracket is too many
        return None
    closed = groups.pop()
    outer = groups[-1]
    if not closed.looks:
        outer.in_a_row += closed.most_in_a_row
        outer.varies = outer.varies or closed.varies
        outer.optional += closed.optional
    outer.most_in_a_row = max(outer.most_in_a_row, outer.in_a_row, closed.most_in_a_row)
    return closed


def _repeat_at(pattern: str, i: int) -> _Repeat | None:
    """The quantifier that begins here, with what makes it lazy or possessive."""
    character = pattern[i]
    if character in "*+":
        repeat = _Repeat(i + 1, open=True, varies=True)
    elif character == "?":
        repeat = _Repeat(i + 1, open=False, varies=True, optional=True)
    elif character == "{":
        end = pattern.find("}", i)
        parts = pattern[i + 1 : end].split(",") if end > 0 else [""]
        if len(parts) > 2 or not any(parts) or not all(p.isdecimal() and len(p) < 6 or not p for p in parts):
            return None
        least = int(parts[0] or 0)
        most = int(parts[-1]) if parts[-1] else None
        if max(least, most or 0) > 1000:
            raise ValueError(f"a regular expression of it repeats more than 1,000 times: {_shown(pattern)}")
        fixed = most == least
        repeat = _Repeat(end + 1, open=(most is None or most > 16) and not fixed or least > 16, varies=not fixed)
    else:
        return None
    while repeat.end < len(pattern) and pattern[repeat.end] in "?+":
        repeat.end += 1
    return repeat


def _opening(pattern: str, i: int) -> tuple[str | None, int]:
    """(what kind of group opens here, the place behind what says so); no kind for settings of the rest: (?i)."""
    if not pattern.startswith("(?", i):
        return "group", i + 1
    for opening in ("(?<=", "(?<!", "(?=", "(?!"):
        if pattern.startswith(opening, i):
            return "look", i + len(opening)
    if pattern.startswith("(?#", i):
        end = pattern.find(")", i)
        return None, len(pattern) if end < 0 else end + 1
    if pattern.startswith("(?<", i):
        end = pattern.find(">", i)
        return "group", len(pattern) if end < 0 else end + 1
    if pattern.startswith(("(?>", "(?~"), i):
        return "group", i + 3
    end = i + 2
    while end < len(pattern) and (pattern[end].isalpha() or pattern[end] == "-"):
        end += 1
    if pattern[end : end + 1] == ")":
        return None, end + 1
    if pattern[end : end + 1] == ":":
        return "group", end + 1
    raise ValueError(f"a regular expression of it has a group of an unknown kind: {_shown(pattern)}")


def _behind_class(pattern: str, i: int) -> int:
    """The place behind a class of characters, which may hold others."""
    depth, first = 0, i
    while i < len(pattern):
        if pattern[i] == "\\":
            i += 2
            continue
        if pattern[i] == "[" and (i == first or pattern[i + 1 : i + 2] not in "]"):
            depth += 1
            i += 2 if pattern[i + 1 : i + 2] == "^" else 1
            if pattern[i : i + 1] == "]":  # at the start it is a character
                i += 1
            continue
        if pattern[i] == "]":
            depth -= 1
            if depth == 0:
                return i + 1
        i += 1
    return len(pattern)


def _refuse_reference(pattern: str, i: int) -> None:
    following = pattern[i + 1 : i + 2]
    if following in ("g", "k") or (following.isdecimal() and following != "0"):
        raise ValueError(f"a regular expression of it refers to its own groups: {_shown(pattern)}")


def _behind_escape(pattern: str, i: int) -> int:
    """`\\p{L}` and `\\x{20}` are one character each."""
    if pattern[i + 1 : i + 2] in ("p", "P", "x", "o") and pattern[i + 2 : i + 3] == "{":
        end = pattern.find("}", i)
        return len(pattern) if end < 0 else end + 1
    return i + 2


def _shown(pattern: str) -> str:
    return repr(pattern if len(pattern) <= 60 else pattern[:57] + "...")
