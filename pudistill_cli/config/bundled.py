"""The recipes that come with pudistill: one folder each, with a `recipe.yaml`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from stat import S_ISDIR, S_ISREG

import pudistill_cli
from pudistill_cli.did_you_mean import did_you_mean
from pudistill_cli.errors import UsageError

RECIPE = "recipe.yaml"
_SHOWN = 200
"""Characters of a path that is none."""


@dataclass(frozen=True, slots=True)
class ShippedRecipe:
    """A recipe that can be run by name."""

    name: str
    about: str
    """The comment that its file begins with, as one line."""
    path: Path


def shipped_recipes() -> tuple[ShippedRecipe, ...]:
    """All of them, by name: beside the modules in a wheel, beside the package in the source tree."""
    package = Path(pudistill_cli.__file__).parent
    folders = (package / "recipes", package.parent / "recipes")
    folder = next((f for f in folders if f.is_dir()), folders[0])
    return tuple(ShippedRecipe(path.parent.name, _about(path), path) for path in sorted(folder.glob(f"*/{RECIPE}")))


def find_recipe(path_or_name: str) -> Path:
    """The file of a recipe: a path, a folder that holds a recipe.yaml, or a shipped recipe's name.

    Raises:
        UsageError: there is none, with what may have been meant.
    """
    path, mode = _looked_up(path_or_name)
    shipped = {recipe.name: recipe.path for recipe in shipped_recipes()}
    if S_ISREG(mode):
        return path
    if path_or_name in shipped:
        return shipped[path_or_name]
    if S_ISDIR(mode) and _looked_up(str(path / RECIPE))[1]:
        return path / RECIPE
    if mode and not S_ISDIR(mode):
        raise UsageError(f"{path} is a pipe, a socket or a device, not a file.", "Save the recipe as a .yaml file.")
    if path.suffix or len(path.parts) > 1:
        raise UsageError(f"No such recipe file: {path_or_name}", "Check the path; names: pudistill recipes")
    known = ", ".join(shipped) or "none"
    raise UsageError(
        f"No such recipe: {path_or_name}{did_you_mean(path_or_name, shipped)}.",
        f"Give the path of a .yaml file, or a shipped recipe's name ({known}).",
    )


def _looked_up(path_or_name: str) -> tuple[Path, int]:
    """The path, and what kind of file is there, as `os.stat` has it; 0 where there is none."""
    try:
        path = Path(path_or_name).expanduser()
        try:
            return path, path.stat().st_mode
        except (FileNotFoundError, NotADirectoryError):
            return path, 0
    except (OSError, ValueError, RuntimeError) as error:  # a NUL; a name too long; ~ of a user who is not there
        shown = ascii(path_or_name[:_SHOWN])
        why = (error.strerror or "") if isinstance(error, OSError) else str(error)
        raise UsageError(f"Cannot read the recipe {shown}: {why}.", "Give the path of a .yaml file.") from error


def _about(path: Path) -> str:
    comment: list[str] = []
    for line in path.read_text(encoding="utf-8").splitlines():
        if not line.startswith("#") or not line.strip("# "):
            break
        comment.append(line.strip("# "))
    return " ".join(comment)
