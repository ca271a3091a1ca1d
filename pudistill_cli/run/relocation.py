"""Files of a run's recipe that were moved together with the run: found again by where they were beside it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

from pudistill_cli.config.loading import MODELS, PATHS, LoadedRecipe
from pudistill_cli.config.schema import Recipe
from pudistill_cli.run.record import Record


def found_again(recipe: Recipe, old: Path, new: Path) -> Recipe:
    """The recipe of a run whose folder was `old` and is `new`: a path where nothing lies any more, as it moved with it.

    What lies there now is compared by its content (run/identity.py), so that a wrong guess is no harm.
    """
    data = recipe.model_dump(mode="json")
    for section, key in _places(data):
        path = section[key]
        moved = os.path.normpath(new / os.path.relpath(path, old))
        if not os.path.lexists(path) and os.path.exists(moved):
            section[key] = moved
    return Recipe.model_validate(data)


def in_place(loaded: LoadedRecipe) -> LoadedRecipe:
    """A recipe with its paths found again where it is a run's own; any other as it is.

    Raises:
        RunError: it is a run's whose record is damaged.
    """
    record = Record(loaded.folder)
    if loaded.path.name != "recipe.yaml" or not record.exists:
        return loaded
    here = loaded.folder.absolute()
    return replace(loaded, recipe=found_again(loaded.recipe, Path(record.read()[0].get("place", here)), here))


def missing_files(recipe: Recipe) -> list[str]:
    """What an opened run needs of its recipe's files and does not find: each with its setting."""
    data = recipe.model_dump(mode="json")
    needed = {"student": data["student"], "prompts": data["prompts"]}
    return [path for section, key in _places(needed) if not os.path.exists(path := section[key])]


def _places(data: dict[str, Any]) -> Iterator[tuple[dict[str, Any], str]]:
    """The settings that hold an absolute path: their mapping, and their key in it."""
    extra = [("prompts", "extra", name) for name in data["prompts"]["extra"]]
    for *parents, key in (*PATHS, *MODELS, *extra):
        section: Any = data
        for parent in parents:
            section = cast("dict[str, Any]", section).get(parent) or {}
        value = cast("dict[str, Any]", section).get(key)
        if isinstance(value, str) and os.path.isabs(value):
            yield section, key
