"""From a bundle to a recipe that can be run: checked, then unpacked into the cache once."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from shlex import quote

from pudistill_cli.bundle.archive import Bundle, is_bundle
from pudistill_cli.bundle.layout import RECIPE, WHEELS, is_python
from pudistill_cli.bundle.manifest import Manifest
from pudistill_cli.bundle.metering import OnBytes, metered, summed
from pudistill_cli.bundle.wheels import install_command
from pudistill_cli.config.loading import load_recipe
from pudistill_cli.config.schema import Recipe
from pudistill_cli.config.teacher import EndpointTeacher
from pudistill_cli.errors import DataError, UsageError
from pudistill_cli.files.cache_dir import cache_path
from pudistill_cli.files.input_lines import counted
from pudistill_cli.models.kept_checkpoint import kept_folder
from pudistill_cli.run.relocation import in_place
from pudistill_cli.terminal.console import Console

_ROOM = 16 << 20
"""Bytes for what a file system needs itself, and `kept_folder` asks for."""


@dataclass(frozen=True, slots=True)
class OpenedRecipe:
    """A recipe that a command was given."""

    recipe: Recipe
    path: Path
    """Of the recipe's file, or of the bundle."""
    bundled: bool
    """Whether it came in a bundle: then no connection is opened."""


def open_recipe(recipe: str, changes: Sequence[str], console: Console) -> OpenedRecipe:
    """What a command's RECIPE stands for: a file, a shipped recipe, or a bundle, which is checked and unpacked.

    The archive is read to its end each time, and so is what an earlier command unpacked: a copy that was damaged since
    is unpacked again. `changes` are the person's own, and may name what is not in the bundle.

    Raises:
        DataError: the bundle is damaged, or not one to be run.
        UsageError: as `load_recipe`, or it is the result of a run.
    """
    path = Path(recipe).expanduser()
    if not is_bundle(path):
        loaded = in_place(load_recipe(recipe, changes))
        return OpenedRecipe(loaded.recipe, loaded.path, False)
    with Bundle(path) as bundle:
        if bundle.manifest.kind != "job":
            raise UsageError(
                f"{path} is the result of a run, not a job to be run.",
                f"Unpack it: pudistill bundle --open {quote(str(path))}",
            )
        if RECIPE not in bundle.manifest.files:
            raise bundle.unusable(f"it has no {RECIPE}")
        folder = _unpacked(bundle, console)
        refuse_strangers(bundle, folder)
        manifest = bundle.manifest
        packed = f"packed {manifest.created} by pudistill {manifest.version}"
        console.say(f"{path.name}, {packed}: {counted(len(manifest.files), 'file')}, and every SHA-256 is right")
        if any(name.startswith(f"{WHEELS}/") for name in manifest.files):
            command = install_command(path, manifest.files)
            console.say(f"Its wheels are left to you. To install them, type:\n  {command}")
    return OpenedRecipe(load_recipe(str(folder / RECIPE), changes).recipe, path, True)


def unpack(bundle: Bundle, folder: Path, console: Console, elsewhere: str, leave: str | None = None) -> None:
    """Write a bundle's files into a folder that is not there yet, which appears whole or not at all.

    What lies in the folder `leave` of the bundle is checked alone.

    Raises:
        DataError: the bundle is damaged, or there is no room: `elsewhere` says how to name another place.
    """
    total = (bundle.manifest.without(leave) if leave else bundle.manifest).total
    existing = next(p for p in (folder.absolute(), *folder.absolute().parents) if p.exists())
    free = shutil.disk_usage(existing).free
    if free < total + _ROOM:
        raise DataError(
            f"What is in {bundle.path} takes {total / 1e9:.1f} GB, and {free / 1e9:.1f} GB are free in {existing}.",
            f"Make room, or name another place: {elsewhere}",
        )

    def write(new: Path) -> None:
        new.chmod(0o700)
        bundle.extract(new, on_bytes, leave)

    with metered(console, f"unpacking {bundle.path.name}", bundle.manifest.total) as on_bytes:
        kept_folder(folder, total, f"What is in {bundle.path} takes", write)


def _unpacked(bundle: Bundle, console: Console) -> Path:
    """The folder in the cache, known by what is in it: of the bundle all but its wheels, which no run needs."""
    manifest = bundle.manifest.without(WHEELS)
    folder = cache_path().resolve() / "bundles" / manifest.content  # as recipes have their paths: without links
    try:
        if folder.is_dir():
            with metered(console, f"checking {bundle.path.name}", bundle.manifest.total + manifest.total) as on_bytes:
                bundle.check(on_bytes)
                if _is_whole(folder, manifest, on_bytes):
                    return folder
            console.warn(f"What was unpacked of {bundle.path} before is damaged, and unpacked again.")
            _remove(folder)
        folder.parent.mkdir(0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(
            f"Cannot use {folder}: {error.strerror or error}.",
            "Check the permissions there, or put the cache elsewhere: PUDISTILL_CACHE=FOLDER",
        ) from error
    unpack(bundle, folder, console, "PUDISTILL_CACHE=FOLDER", leave=WHEELS)
    return folder


def _remove(folder: Path) -> None:
    """In one step, since another process may do the same; `kept_folder` clears away what is left of it."""
    aside = folder.with_name(f".{folder.name}.{os.getpid()}.tmp")
    with suppress(FileNotFoundError):
        folder.rename(aside)
        if aside.is_symlink():
            aside.unlink()
        else:
            shutil.rmtree(aside, ignore_errors=True)


def _is_whole(folder: Path, manifest: Manifest, on_bytes: OnBytes) -> bool:
    """Whether a folder holds the files of the manifest, and nothing else."""
    found = [path for path in folder.rglob("*") if path.is_symlink() or not path.is_dir()]
    if {path.relative_to(folder).as_posix() for path in found} != manifest.files.keys():
        return False
    if any(path.is_symlink() for path in (folder, *found)):
        return False
    for name, entry in manifest.files.items():
        try:
            with (folder / name).open("rb") as file:
                size_and_sum = summed(file, on_bytes)
        except OSError:
            return False
        if size_and_sum != (entry.size, entry.sha256):
            return False
    return True


def refuse_strangers(bundle: Bundle, folder: Path) -> None:
    """See that the recipe names nothing but files of the bundle, and no code."""
    folder = folder.resolve()
    recipe = load_recipe(str(folder / RECIPE)).recipe
    for key, value in _named(recipe).items():
        place = Path(value)
        if not (place.is_relative_to(folder) and place != folder and place.exists()):
            raise bundle.unusable(f"its recipe names {key} {value!a}, which is not in it")
    if isinstance(recipe.teacher, EndpointTeacher):
        raise bundle.unusable("its recipe asks a teacher over a network")
    if is_python(recipe.eval.metric):
        raise bundle.unusable(f"its recipe names code, eval.metric {recipe.eval.metric!a}")
    if recipe.export.llama_cpp is not None:
        raise bundle.unusable("its recipe names code, export.llama_cpp")


def _named(recipe: Recipe) -> dict[str, str]:
    """Every file or folder that a recipe names, by key."""
    prompts, student, teacher = recipe.prompts, recipe.student, recipe.teacher
    named = {
        **{f"prompts.{name}": getattr(prompts, name) for name in ("path", "train", "dev", "test")},
        **{f"prompts.extra.{name}": path for name, path in prompts.extra.items()},
        "student.model": student.model,
        "student.original": student.original,
        "teacher.path": getattr(teacher, "path", None),
        "teacher.model": getattr(teacher, "model", None) if teacher.kind == "local" else None,
    }
    return {key: value for key, value in named.items() if value is not None}
