"""A recipe read from YAML: overrides, absolute paths, and every error at once, with its line."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import yaml
from pydantic import ValidationError

from pudistill_cli.config.bundled import RECIPE, ShippedRecipe, find_recipe, shipped_recipes
from pudistill_cli.config.overrides import apply_overrides
from pudistill_cli.config.schema import Recipe
from pudistill_cli.config.validation_errors import Problem, problems_of
from pudistill_cli.config.yaml_lines import Document, Dotted, YamlProblem, read_yaml
from pudistill_cli.errors import DataError, UsageError
from pudistill_cli.files.input_lines import read_content
from pudistill_cli.files.paths_inside import leads_inside, real_path
from pudistill_cli.redaction import KEY_LIKE, redacted_teacher

__all__ = ["LoadedRecipe", "ShippedRecipe", "load_recipe", "resolved_yaml", "shipped_recipes"]

MOST_BYTES = 1 << 20
"""Of a recipe's file; the longest that comes with pudistill has three thousand."""
_MOST_PROBLEMS = 20
_NAME_IT = (
    "looks like an API key; name its environment variable in teacher.api_key_env, or as ${NAME} in teacher.extra_body"
)
PATHS: tuple[Dotted, ...] = (
    ("prompts", "path"),
    ("prompts", "train"),
    ("prompts", "dev"),
    ("prompts", "test"),
    ("teacher", "path"),
    ("export", "llama_cpp"),
)
MODELS: tuple[Dotted, ...] = (("student", "model"), ("student", "original"), ("teacher", "model"))


@dataclass(frozen=True, slots=True)
class LoadedRecipe:
    """A valid recipe, and where it came from."""

    recipe: Recipe
    path: Path
    folder: Path


def load_recipe(path_or_name: str, overrides: Sequence[str] = ()) -> LoadedRecipe:
    """Read and check a recipe; `overrides` are "a.b=c", the value in YAML.

    Paths in the file are relative to its folder, and stay in it; those in overrides are relative to the working
    directory. An absolute path is taken as it is.

    Raises:
        UsageError: every error of file and overrides, each on a line: 'file:line: dotted.path: message'.
    """
    path = find_recipe(path_or_name)
    document, problems = _read(path)
    data = cast("dict[str, Any]", document.value)
    overridden, bad = apply_overrides(data, overrides)
    data.setdefault("name", _default_name(path))
    problems += [*bad, *_keys_in(data, ())]
    problems += _make_absolute(data, path.parent.resolve(), overridden)
    try:
        recipe = Recipe.model_validate(data)
    except ValidationError as error:
        problems += problems_of(error, data, Recipe)
        recipe = None
    if problems or recipe is None:
        raise _refused(path, document, overridden, problems)
    return LoadedRecipe(recipe, path, path.parent)


def resolved_yaml(recipe: Recipe) -> str:
    """The whole recipe, defaults included, in the models' order; loading it gives the same recipe, without secrets."""
    dumped = recipe.model_dump(mode="json")
    dumped["teacher"] = redacted_teacher(dumped["teacher"])
    return yaml.safe_dump(dumped, sort_keys=False, allow_unicode=True, default_flow_style=False, width=100)


def _read(path: Path) -> tuple[Document, list[Problem]]:
    try:
        document = read_yaml(_text_of(path))
    except YamlProblem as error:
        raise _refused(path, Document(None, {}, []), (), [Problem((), error.message, error.line)]) from error
    if document.value is None:
        document = replace(document, value={})
    if not isinstance(document.value, dict):
        problem = Problem((), "a recipe is a mapping of sections (student, teacher, prompts, ...)")
        raise _refused(path, document, (), [problem])
    return document, [
        Problem(key, f"comes twice; first on line {document.lines[key]}", line) for line, key in document.duplicates
    ]


def _text_of(path: Path) -> str:
    try:
        content = read_content(path, "the recipe", "Check its path and its permissions.", most=MOST_BYTES)
        return content.decode("utf-8-sig")
    except DataError as error:
        raise UsageError(error.message, error.hint) from error
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        what = f"{path}:{line}: not UTF-8 text (0x{error.object[error.start]:02x})."
        raise UsageError(what, "Save it as UTF-8.") from error


def _default_name(path: Path) -> str:
    """The file's name, or its folder's where the file is plainly a recipe.yaml."""
    name = path.resolve().parent.name if path.name == RECIPE else path.stem
    return re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-._") or "run"


def _keys_in(value: Any, path: Dotted) -> Iterator[Problem]:
    """Places that hold what looks like an API key, as a key or as a value."""
    if isinstance(value, dict):
        for key, item in cast("dict[str, Any]", value).items():
            yield from _keys_in(item, (*path, key))
    elif isinstance(value, list):
        for i, item in enumerate(cast("list[Any]", value)):
            yield from _keys_in(item, (*path, str(i)))
    elif isinstance(value, str) and KEY_LIKE.search(value):
        yield Problem(path, _NAME_IT)


def _make_absolute(data: dict[str, Any], folder: Path, overridden: Sequence[Dotted]) -> Iterator[Problem]:
    """Make the paths absolute; yield those of the file that are relative and lead out of its folder."""
    for path in [
        *PATHS,
        *MODELS,
        *(("prompts", "extra", name) for name in _section(data, "prompts", "extra")),
    ]:
        section = _section(data, *path[:-1])
        value = section.get(path[-1])
        if not isinstance(value, str) or not value:
            continue
        typed = any(path[: len(o)] == o for o in overridden)
        absolute = _absolute(Path.cwd() if typed else folder, value)
        if path in MODELS and not (_local(section) and _is_a_path(value, absolute)):
            continue
        section[path[-1]] = str(absolute)
        try:
            if not typed and not Path(os.path.expanduser(value)).is_absolute() and not leads_inside(folder, absolute):
                yield Problem(
                    path,
                    f"leads out of the recipe's folder, to {real_path(absolute)}. Put it beside the recipe, write its "
                    f"absolute path, or name it yourself: --set {'.'.join(path)}=PATH",
                )
        except ValueError as error:
            yield Problem(path, f"is no path: {error}")


def _absolute(base: Path, value: str) -> Path:
    """Beside `base`; what `~` cannot be resolved in stays as it is written."""
    with suppress(RuntimeError):
        return Path(os.path.normpath(base / Path(value).expanduser()))
    return Path(os.path.normpath(base / value))


def _local(section: Mapping[str, Any]) -> bool:
    """Whether a section's model is one that is loaded here: an endpoint gives its models names of its own."""
    return section.get("kind", "local") == "local"


def _is_a_path(model: str, absolute: Path) -> bool:
    """A model is a folder or a file if it is written like a path or is there; otherwise it is a hub id."""
    if model.startswith((".", "/", "~")) or model.lower().endswith(".gguf"):
        return True
    with suppress(OSError):  # longer than the name of a file
        return absolute.exists()
    return False


def _section(data: dict[str, Any], *path: str) -> dict[str, Any]:
    """A nested mapping of the raw recipe; an empty one where there is none."""
    value: Any = data
    for key in path:
        value = cast("dict[str, Any]", value).get(key) if isinstance(value, dict) else None
    return cast("dict[str, Any]", value) if isinstance(value, dict) else {}


def _refused(path: Path, document: Document, overridden: Sequence[Dotted], problems: Sequence[Problem]) -> UsageError:
    lines: list[str] = []
    for problem in sorted(problems, key=lambda p: p.line or _line(document, p.path)):
        dotted = ".".join(problem.path)
        if _overridden(problem.path, document, overridden):
            where = f"--set {dotted}"
        else:
            line = problem.line if problem.line is not None else _line(document, problem.path)
            where = f"{path}:{line}: {dotted}" if dotted else f"{path}:{line}"
        lines.append(KEY_LIKE.sub("[key]", f"{where}: {problem.message}"))
    count = "one error" if len(lines) == 1 else f"{len(lines)} errors"
    if len(lines) > _MOST_PROBLEMS:
        lines[_MOST_PROBLEMS:] = [f"and {len(lines) - _MOST_PROBLEMS:,} more"]
    return UsageError(
        f"The recipe has {count}:\n  " + "\n  ".join(lines),
        "Correct it and type the same command again; docs/recipe.md has every setting.",
    )


def _overridden(path: Dotted, document: Document, overridden: Sequence[Dotted]) -> bool:
    """Whether an override gave this place, or made it: it is not in the file then."""
    made = path not in document.lines
    return any(path[: len(o)] == o or (made and path and o[: len(path)] == path) for o in overridden)


def _line(document: Document, path: Dotted) -> int:
    """The line of the nearest part of `path` that the file has."""
    while path and path not in document.lines:
        path = path[:-1]
    return document.lines.get(path, 1)
