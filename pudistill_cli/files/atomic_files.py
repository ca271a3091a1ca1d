"""Files and folders that appear whole or not at all: temporary name, sync, rename, sync of the parent."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from pudistill_cli.errors import RunError
from pudistill_cli.files.private_files import make_private_folder

_OLD = ".old"


def write_atomic(path: Path, data: str | bytes) -> None:
    """Write a file (text as UTF-8); a reader sees the old content or the new one, also after a power cut.

    Raises:
        RunError: it cannot be written; an older file is left as it was.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(data.encode() if isinstance(data, str) else data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        sync_folder(path.parent)
    except OSError as error:
        raise cannot_write(path, error) from error
    finally:
        if os.path.exists(temporary):  # Path.exists raises where the folder may not be read
            temporary.unlink()


def replace_folder(new: Path, final: Path) -> None:
    """Put a finished folder in its place, beside which it must lie; an older one there goes.

    No call replaces a folder that is not empty: the older one is moved aside first, and `recover_folders`
    moves it back if the process dies between the two renames.

    Raises:
        RunError: it cannot be done; an older folder is left as it was.
    """
    old = final.with_name(f".{final.name}{_OLD}")
    try:
        sync_tree(new)
        if final.exists():
            if old.exists():
                shutil.rmtree(old)
            final.rename(old)
        try:
            new.rename(final)
        except OSError:
            if old.exists():
                old.rename(final)
            raise
        sync_folder(final.parent)
        if old.exists():
            shutil.rmtree(old)
    except OSError as error:
        raise cannot_write(final, error) from error


@contextmanager
def whole_folder(path: Path) -> Generator[Path]:
    """A temporary folder that becomes `path` at the end of the block, by `replace_folder`.

    Raises:
        RunError: it cannot be written, by whatever library; an older folder is left as it was.
    """
    new = path.with_name(f".{path.name}.tmp")
    shutil.rmtree(new, ignore_errors=True)
    try:
        make_private_folder(path.parent)
        new.mkdir(0o700)
        yield new
        replace_folder(new, path)
    except Exception as error:
        if (problem := _problem_of_disk(error)) is None:
            raise
        raise cannot_write(path, problem) from error
    finally:
        shutil.rmtree(new, ignore_errors=True)


def _problem_of_disk(error: Exception) -> OSError | None:
    """What the system said, where an error is of writing; safetensors, in Rust, has it in its own words alone."""
    if isinstance(error, OSError):
        return error
    said = re.search(r"\(os error (\d+)\)", str(error))
    return OSError(int(said[1]), os.strerror(int(said[1]))) if said else None


def recover_folders(parent: Path) -> None:
    """Undo what a process that died while it wrote or replaced something left in `parent`."""
    for temporary in parent.glob(".*.tmp"):
        shutil.rmtree(temporary) if temporary.is_dir() else temporary.unlink()
    for old in parent.glob(f".*{_OLD}"):
        final = parent / old.name[1 : -len(_OLD)]
        if final.exists():
            shutil.rmtree(old)
        else:
            old.rename(final)


def sync_tree(folder: Path) -> None:
    """Sync every file and folder below `folder`, and itself."""
    for path in (*folder.rglob("*"), folder):
        if path.is_dir():
            sync_folder(path)
        else:
            with path.open("rb+") as file:  # Windows syncs only what is open for writing
                os.fsync(file.fileno())


def sync_folder(folder: Path) -> None:
    """Sync a folder's entries; Windows knows no such thing."""
    if os.name == "nt":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def cannot_write(path: Path, error: OSError) -> RunError:
    """The message for a file or folder that cannot be written."""
    return RunError(
        f"Cannot write {path}: {error.strerror or error}.",
        "Check the permissions and the free space there, or put the runs elsewhere: --runs FOLDER",
    )
