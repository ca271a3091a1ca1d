"""YAML with the line of every key: YAML 1.2 scalars, duplicate keys reported."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import Any, TypeAlias, cast

import yaml
from yaml.reader import ReaderError

Dotted: TypeAlias = tuple[str, ...]
"""Keys from the top of the file; a list item's key is its number."""
_DEEPEST = 20
_CORE_COLLECTIONS = ("tag:yaml.org,2002:map", "tag:yaml.org,2002:seq")


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


def _core_schema() -> dict[str, list[tuple[str, re.Pattern[str]]]]:
    """PyYAML's table of plain scalars: by first character ("" is the empty scalar), tag and pattern."""
    table: dict[str, list[tuple[str, re.Pattern[str]]]] = {}
    for tag, pattern, firsts in (
        ("bool", r"true|True|TRUE|false|False|FALSE", [*"tTfF"]),
        ("null", r"~|null|Null|NULL|", [*"~nN", ""]),
        ("int", r"[-+]?(0|[1-9][0-9]*)", [*"-+0123456789"]),
        ("float", r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?", [*"-+.0123456789"]),
    ):
        for first in firsts:
            table.setdefault(first, []).append((f"tag:yaml.org,2002:{tag}", re.compile(f"^(?:{pattern})$")))
    return table


class _Loader(yaml.SafeLoader):
    """YAML 1.1, which PyYAML reads, takes 2e-4 for a string and `no` for false: the core schema of 1.2."""

    yaml_implicit_resolvers: dict[str, Any] = _core_schema()


def read_yaml(text: str) -> Document:
    """Parse one document.

    Raises:
        YamlProblem: not YAML, a key that is no word, or nesting without an end.
    """
    document = Document(None, {}, [])
    try:
        loader = _Loader(text)
        node = loader.get_single_node()
        return document if node is None else replace(document, value=_value(loader, node, (), document))
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 0
        raise YamlProblem(line, f"not YAML: {error.problem or error.context}") from error
    except ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise YamlProblem(line, f"not YAML: {error.reason}") from error
    except ValueError as error:  # a scalar that its explicit tag does not fit
        raise YamlProblem(0, f"not YAML: {error}") from error


def _value(loader: _Loader, node: yaml.Node, path: Dotted, document: Document) -> Any:
    here = node.start_mark.line + 1
    document.lines.setdefault(path, here)
    if len(path) > _DEEPEST:  # an alias inside its own anchor, too
        raise YamlProblem(here, f"nested more than {_DEEPEST} levels deep")
    if isinstance(node, yaml.CollectionNode) and node.tag not in _CORE_COLLECTIONS:
        raise YamlProblem(here, f"the tag {node.tag} has no meaning here")
    if isinstance(node, yaml.MappingNode):
        return _mapping(loader, node, path, document)
    if isinstance(node, yaml.SequenceNode):
        return [_value(loader, item, (*path, str(i)), document) for i, item in enumerate(node.value)]
    return cast("Any", loader.construct_object(node))  # pyright: ignore[reportUnknownMemberType]


def _mapping(loader: _Loader, node: yaml.MappingNode, path: Dotted, document: Document) -> dict[str, Any]:
    mapping: dict[str, Any] = {}
    for key_node, value_node in node.value:
        line = key_node.start_mark.line + 1
        if not isinstance(key_node, yaml.ScalarNode) or not key_node.value:
            raise YamlProblem(line, "a key must be a word")
        key = str(key_node.value)
        if key in mapping:
            document.duplicates.append((line, (*path, key)))
            continue
        document.lines[(*path, key)] = line
        mapping[key] = _value(loader, value_node, (*path, key), document)
    return mapping
