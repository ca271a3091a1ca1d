"""Whether a regular expression can be matched in a bounded time, seen from how it is written.

The library behind `tokenizers` (Oniguruma) goes back and tries again. Of a text of L letters, one repeat before
something that may fail takes up to L tries at each place, L ** 2 in all; real patterns have that. Two of them take
L ** 3, which is 18 seconds at 2,000 letters, and a repeat within a repeat takes exponentially many. So both are allowed
only where nothing behind them can fail: then the first try is the last one.
"""

from __future__ import annotations

from dataclasses import dataclass, field

_LONGEST = 8192
_DEEPEST = 32
_MOST_TIMES = 1000
_MOST_WAYS = 1 << 12
"""In which repeats that do have an end may match."""


@dataclass(slots=True)
class _Ways:
    """In how many ways a text can be read by what stands before a place."""

    endless: int = 0
    """Repeats without an end."""
    ways: int = 1
    """Of all others."""
    hard: bool = False
    """Among them is a repeat within a repeat."""

    def join(self, other: _Ways) -> None:
        """Whichever of two alternatives has more."""
        self.endless, self.ways = max(self.endless, other.endless), max(self.ways, other.ways)
        self.hard = self.hard or other.hard

    @property
    def one(self) -> bool:
        """It is read in one way alone."""
        return not self.endless and self.ways == 1 and not self.hard


@dataclass(slots=True)
class _Group:
    """A group that is open."""

    before: _Ways
    """Of the alternative that is read, up to this place."""
    most: _Ways
    """Of those that were read."""
    needs: _Ways
    """Before anything in it that may fail."""
    repeats: int
    """Without an end, that may stand there."""
    can_fail: bool = False
    starts: list[str | None] = field(default_factory=list[str | None])
    """The letters that its alternatives begin with; None for one that begins otherwise."""
    at_start: bool = True
    alternatives: int = 0
    looks: bool = False
    """It looks ahead or behind, and matches once."""


@dataclass(frozen=True, slots=True)
class _Repeat:
    """A quantifier, and where the pattern goes on."""

    end: int
    least: int = 1
    most: int | None = 1
    """None where there is no end, or one that is far."""


def check_pattern(pattern: str, repeats: int = 1) -> None:
    """See that a pattern is one whose matching takes a bounded time.

    `repeats` are those without an end that may stand before something that can fail: for short texts more are allowed.

    Raises:
        ValueError: why it may not.
    """
    if len(pattern) > _LONGEST:
        raise ValueError(f"a regular expression of it has more than {_LONGEST:,} characters")
    groups = [_Group(_Ways(), _Ways(), _Ways(), repeats)]
    i = 0
    while i < len(pattern):
        character = pattern[i]
        if character == "(":
            if groups[-1].at_start:
                groups[-1].starts.append(None)
                groups[-1].at_start = False
            opens, looks, i = _opening(pattern, i)
            if opens:
                groups.append(_Group(_Ways(), _Ways(), _Ways(), repeats, looks=looks))
            if len(groups) > _DEEPEST:
                raise ValueError(f"a regular expression of it is nested more than {_DEEPEST} deep")
        elif character == "|":
            _next_alternative(groups[-1])
            i += 1
        elif character == ")" and len(groups) > 1:
            repeat = _repeat_at(pattern, i + 1)
            _take_group(groups.pop(), repeat, groups[-1], pattern)
            i = repeat.end
        else:
            end = _behind_atom(pattern, i)
            repeat = _repeat_at(pattern, end)
            if groups[-1].at_start:
                groups[-1].starts.append(_literal(pattern, i, end) if repeat.least else None)
            groups[-1].at_start = False
            _take_atom(groups[-1], repeat, pattern, sure=_is_told_apart(pattern, i, end, repeat.end))
            i = repeat.end


def _take_atom(group: _Group, repeat: _Repeat, pattern: str, *, sure: bool) -> None:
    if repeat.least:
        _may_fail(group, _Ways(), pattern)
    if repeat.most is None:
        group.before.endless += 1
    elif not sure:
        group.before.ways = min(group.before.ways * (1 + repeat.most - repeat.least), 1 << 64)


def _take_group(inner: _Group, repeat: _Repeat, outer: _Group, pattern: str) -> None:
    _next_alternative(inner)
    if repeat.least and (inner.can_fail or inner.looks):
        _may_fail(outer, inner.needs, pattern)
    if inner.looks:
        return
    whole = _Ways(inner.most.endless, min(inner.most.ways * _told_alternatives(inner), 1 << 20), inner.most.hard)
    before = outer.before
    if repeat.most is None:
        before.hard = before.hard or not whole.one
        before.endless += 1
        return
    before.endless += whole.endless * max(1, repeat.most)
    before.hard = before.hard or whole.hard
    before.ways *= (1 + repeat.most - repeat.least) * whole.ways ** min(repeat.most, 64)
    before.ways = min(before.ways, 1 << 64)


def _may_fail(group: _Group, within: _Ways, pattern: str) -> None:
    """Something comes that sends the library back to what stands before it."""
    before = group.before
    needs = _Ways(before.endless + within.endless, before.ways * within.ways, before.hard or within.hard)
    if needs.hard or needs.endless > group.repeats or needs.ways > _MOST_WAYS:
        raise ValueError(f"a regular expression of it takes too long where a text does not match: {_shown(pattern)}")
    group.needs.join(needs)
    group.can_fail = True


def _next_alternative(group: _Group) -> None:
    group.most.join(group.before)
    group.before = _Ways()
    group.alternatives += 1
    group.at_start = True


def _told_alternatives(group: _Group) -> int:
    """Alternatives that a text may fit at once: one, where each begins with a letter of its own."""
    letters = [start for start in group.starts if start]
    return 1 if len(set(letters)) == group.alternatives else group.alternatives


def _is_told_apart(pattern: str, i: int, end: int, behind: int) -> bool:
    """Whether a letter is followed by another one, so that it is clear whether it is there: \\r?\\n."""
    following = _literal(pattern, behind, _behind_atom(pattern, behind)) if behind < len(pattern) else None
    own = _literal(pattern, i, end)
    return own is not None and following is not None and own != following


def _literal(pattern: str, i: int, end: int) -> str | None:
    """The letter that is written here, or None."""
    text = pattern[i:end]
    if len(text) == 2 and text[0] == "\\":
        return text if text[1] in "rntf" or not text[1].isalnum() else None
    return text if len(text) == 1 and text not in ".[](){}|^$*+?\\" else None


def _repeat_at(pattern: str, i: int) -> _Repeat:
    """The quantifier that begins here, with what makes it lazy or possessive; once, where none does."""
    character, end = pattern[i : i + 1], i + 1
    least, most = {"*": (0, None), "+": (1, None), "?": (0, 1)}.get(character, (1, 1))
    if character == "{":
        end = pattern.find("}", i) + 1
        parts = pattern[i + 1 : end - 1].split(",") if end else [""]
        if len(parts) > 2 or not any(parts) or not all((p.isdecimal() and len(p) < 6) or not p for p in parts):
            return _Repeat(i)  # a brace
        least = int(parts[0] or 0)
        most = int(parts[-1]) if parts[-1] else None
        if max(least, most or 0) > _MOST_TIMES:
            raise ValueError(f"a regular expression of it repeats more than {_MOST_TIMES:,} times: {_shown(pattern)}")
        least, most = min(least, most or least), None if most is None or most - least > 16 else max(least, most)
    elif not character or character not in "*+?":
        return _Repeat(i)
    while end < len(pattern) and pattern[end] in "?+":
        end += 1
    return _Repeat(end, least, most)


def _behind_atom(pattern: str, i: int) -> int:
    if pattern[i] == "\\":
        _refuse_reference(pattern, i)
        return _behind_escape(pattern, i)
    return _behind_class(pattern, i) if pattern[i] == "[" else i + 1


def _opening(pattern: str, i: int) -> tuple[bool, bool, int]:
    """(whether a group opens here, whether it looks, the place behind what says so); (?i) alone opens none."""
    if not pattern.startswith("(?", i):
        return True, False, i + 1
    for opening in ("(?<=", "(?<!", "(?=", "(?!", "(?>", "(?~"):
        if pattern.startswith(opening, i):
            return True, opening[-1] in "=!", i + len(opening)
    if pattern.startswith(("(?#", "(?<"), i):
        end = pattern.find(")" if pattern[i + 2] == "#" else ">", i)
        return pattern[i + 2] == "<", False, len(pattern) if end < 0 else end + 1
    end = i + 2
    while end < len(pattern) and (pattern[end].isalpha() or pattern[end] == "-"):
        end += 1
    if pattern[end : end + 1] not in (")", ":"):
        raise ValueError(f"a regular expression of it has a group of an unknown kind: {_shown(pattern)}")
    return pattern[end] == ":", False, end + 1


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
