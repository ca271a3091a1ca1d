"""YAML with the line of every key: YAML 1.2 scalars, duplicate keys reported, and no more than a recipe can hold."""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from math import isinf
from typing import Any, TypeAlias, cast

import yaml
from yaml.reader import ReaderError

Dotted: TypeAlias = tuple[str, ...]
"""Keys from the top of the file; a list item's key is its number."""
DEEPEST = 20
MOST_VALUES = 5_000
MOST_TEXT = 1 << 19
"""Characters of all keys and values. Both bounds count what an alias stands for each time that it comes."""
_LONGEST_KEY = 200
_SCALARS = {
    "bool": r"true|True|TRUE|false|False|FALSE",
    "null": r"~|null|Null|NULL|",
    "int": r"[-+]?(0|[1-9][0-9]*)",
    "float": r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?",
}
"""The core schema of YAML 1.2."""
_FIRSTS = {"bool": [*"tTfF"], "null": [*"~nN", ""], "int": [*"-+0123456789"], "float": [*"-+.0123456789"]}
_PREFIX = "tag:yaml.org,2002:"
_CORE = ("map", "seq", "str", *_SCALARS)
_LONGEST_NUMBER = 400
"""Digits: more than any float has."""
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x84\x86-\x9f]")


class YamlProblem(Exception):
    """The text is not YAML: why, and on which line (0 if that is not known)."""

    def __init__(self, line: int, message: str) -> None:
        super().__init__(message)
        self.line = line
        self.message = message


@dataclass(frozen=True, slots=True)
class Document:
    """A file's value, the 1-based line of everything in it, and the keys that come twice."""

    value: Any
    lines: dict[Dotted, int]
    duplicates: list[tuple[int, Dotted]]
    """The line of the second one; the first one counts."""


@dataclass(slots=True)
class _Room:
    """What is left of the bounds."""

    values: int = MOST_VALUES
    text: int = MOST_TEXT

    def take(self, line: int, text: str = "") -> None:
        self.values -= 1
        self.text -= len(text)
        if self.values < 0:
            raise YamlProblem(line, f"more than {MOST_VALUES:,} values, aliases written out")
        if self.text < 0:
            raise YamlProblem(line, f"more than {MOST_TEXT:,} characters, aliases written out")


def _core_schema() -> dict[str, list[tuple[str, re.Pattern[str]]]]:
    """PyYAML's table of plain scalars: by first character ("" is the empty scalar), tag and pattern."""
    table: dict[str, list[tuple[str, re.Pattern[str]]]] = {}
    for tag, pattern in _SCALARS.items():
        for first in _FIRSTS[tag]:
            table.setdefault(first, []).append((_PREFIX + tag, re.compile(f"^(?:{pattern})$")))
    return table


class _Loader(yaml.SafeLoader):
    """YAML 1.1, which PyYAML reads, takes 2e-4 for a string and `no` for false: the core schema of 1.2.

    Bounded while it is read, too: a file of nothing but brackets has no values yet.
    """

    yaml_implicit_resolvers: dict[str, Any] = _core_schema()

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._depth = 0
        self._room = _Room()

    def compose_node(self, parent: Any, index: Any) -> Any:
        """A node and what is in it."""
        line = self.peek_event().start_mark.line + 1  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]
        self._room.take(cast("int", line))
        self._depth += 1
        if self._depth > DEEPEST + 2:
            raise _too_deep(cast("int", line))
        try:
            return super().compose_node(parent, index)  # pyright: ignore[reportUnknownVariableType]
        finally:
            self._depth -= 1


@dataclass(slots=True)
class _Reading:
    """A document as it becomes values."""

    document: Document
    room: _Room = field(default_factory=_Room)


def read_yaml(text: str) -> Document:
    """Parse one document.

    Raises:
        YamlProblem: not YAML, a key that is no word, nesting without an end, or more than a recipe can hold.
    """
    document = Document(None, {}, [])
    try:
        node = _Loader(text).get_single_node()
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 0
        raise YamlProblem(line, f"not YAML: {error.problem or error.context}") from error
    except ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise YamlProblem(line, f"not YAML: {error.reason}") from error
    except (ValueError, OverflowError) as error:  # an escape or a version beyond what there is
        raise YamlProblem(0, f"not YAML: {error}") from error
    return document if node is None else replace(document, value=_value(node, (), _Reading(document)))


def text_problem(text: str) -> str:
    """What is wrong with a key or a value as text; nothing where it is as people write it."""
    if control := _CONTROL.search(text):
        return f"holds a control character (\\x{ord(control[0]):02x}, at character {control.start() + 1})"
    if any("\ud800" <= c <= "\udfff" for c in text):
        return "holds half a character (an unpaired surrogate)"
    return ""


def _value(node: yaml.Node, path: Dotted, reading: _Reading) -> Any:
    here = node.start_mark.line + 1
    reading.document.lines.setdefault(path, here)
    if len(path) > DEEPEST:  # an alias inside its own anchor, too
        raise _too_deep(here)
    if node.tag.removeprefix(_PREFIX) not in _CORE or not node.tag.startswith(_PREFIX):
        raise YamlProblem(here, f"the tag {ascii(node.tag[:_LONGEST_KEY])[1:-1]} has no meaning here")
    if isinstance(node, yaml.MappingNode):
        return _mapping(node, path, reading)
    if isinstance(node, yaml.SequenceNode):
        reading.room.take(here)
        return [_value(item, (*path, str(i)), reading) for i, item in enumerate(node.value)]
    return _scalar(cast("yaml.ScalarNode", node), here, reading.room)


def _mapping(node: yaml.MappingNode, path: Dotted, reading: _Reading) -> dict[str, Any]:
    mapping: dict[str, Any] = {}
    document = reading.document
    for key_node, value_node in node.value:
        line = key_node.start_mark.line + 1
        if not isinstance(key_node, yaml.ScalarNode) or not key_node.value:
            raise YamlProblem(line, "a key must be a word")
        key = _text(str(key_node.value), line, reading.room)
        if len(key) > _LONGEST_KEY:
            raise YamlProblem(line, f"a key of {len(key):,} characters")
        if key in mapping:
            document.duplicates.append((line, (*path, key)))
            continue
        document.lines[(*path, key)] = line
        mapping[key] = _value(value_node, (*path, key), reading)
    return mapping


def _scalar(node: yaml.ScalarNode, line: int, room: _Room) -> Any:
    text = _text(str(node.value), line, room)
    kind = node.tag.removeprefix(_PREFIX)
    if kind == "str":
        return text
    if kind not in _SCALARS or not re.fullmatch(_SCALARS[kind], text) or len(text) > _LONGEST_NUMBER:
        shown = repr(text) if len(text) <= _LONGEST_KEY else f"{len(text):,} characters"
        raise YamlProblem(line, f"not YAML: {shown} is no {kind}")
    if kind == "null":
        return None
    if kind == "float" and isinf(float(text)):
        raise YamlProblem(line, f"{text} is too large for a number")
    return text.lower() == "true" if kind == "bool" else {"int": int, "float": float}[kind](text)


def _text(text: str, line: int, room: _Room) -> str:
    """The text of a key or a scalar, a pair of surrogate escapes being one character, as in JSON."""
    room.take(line, text)
    if any("\ud800" <= c <= "\udfff" for c in text):
        text = text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "surrogatepass")
    if problem := text_problem(text):
        raise YamlProblem(line, f"the text {problem}")
    return text


def _too_deep(line: int) -> YamlProblem:
    return YamlProblem(line, f"nested more than {DEEPEST} levels deep")
