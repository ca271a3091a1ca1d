"""Checkpoints in Hugging Face form that are made of something else, once, and kept in the cache.

Nothing else would notice if a file of one changed on the disk: what a run compares is the hash of what it was made of.
So each has the sums of its files in it, and one that is damaged is made again.
"""

from __future__ import annotations

import json
import shutil
import tempfile
import time
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from pudistill_cli.errors import DataError, RunError
from pudistill_cli.files.atomic_files import sync_folder, sync_tree, write_atomic
from pudistill_cli.files.file_sums import file_sum, folder_sums
from pudistill_cli.files.private_files import make_private_folder

_SUMS = "sums.json"
"""The SHA-256 of each of a checkpoint's files, by its path in it."""
_FOUND_WHOLE: set[tuple[object, ...]] = set()
_ROOM = 16 << 20
"""Bytes for configs, tokenizer and the file system's own use."""
_ABANDONED = 24 * 3600.0
"""Seconds after which a half-made checkpoint to which nothing was added is a killed process's."""


def kept_checkpoint(out: Path, needed: int, takes: str, write: Callable[[Path], None]) -> Path:
    """As `kept_folder`, with the sums of its files in it: one that is not what was written any more is made again.

    Raises:
        DataError: there is no room for it, or it cannot be written.
    """
    if out.is_dir() and _is_whole(out):
        return out

    def write_summed(made: Path) -> None:
        write(made)
        write_json(made / _SUMS, folder_sums(made))

    with _as_data_error(out):
        _remove_damaged(out)
    return kept_folder(out, needed, takes, write_summed)


def kept_folder(out: Path, needed: int, takes: str, write: Callable[[Path], None]) -> Path:
    """The folder `out`, made by `write` unless it is there; `takes` is what takes `needed` bytes, for a message.

    The folder appears whole or not at all. Several processes may make it at once: the first one's is everyone's.

    Raises:
        DataError: there is no room for it, or it cannot be written.
    """
    if out.is_dir():
        return out
    with _as_data_error(out):
        make_private_folder(out.parent)
        _remove_abandoned(out)
        free = shutil.disk_usage(out.parent).free
        if free < needed + _ROOM:
            raise DataError(
                f"{takes} {needed / 1e9:.1f} GB, and {free / 1e9:.1f} GB are free in {out.parent}.",
                "Make room, or put the cache elsewhere: PUDISTILL_CACHE=FOLDER",
            )
        with tempfile.TemporaryDirectory(
            dir=out.parent, prefix=f".{out.name}.", suffix=".tmp", ignore_cleanup_errors=True
        ) as name:
            made = Path(name) / out.name
            made.mkdir(0o700)
            write(made)
            sync_tree(made)
            try:
                made.rename(out)
            except OSError:
                if not out.is_dir():  # another process's, which was quicker
                    raise
        sync_folder(out.parent)
    return out


@contextmanager
def _as_data_error(out: Path) -> Generator[None]:
    try:
        yield
    except OSError as error:
        raise DataError(
            f"Cannot write {out}: {error.strerror or error}.", "Check the permissions and the free space there."
        ) from error


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write a config as transformers does."""
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _is_whole(folder: Path) -> bool:
    """Whether each of its files is what was written; found out once a process, as long as none is written to."""
    sums = folder / _SUMS
    state = (folder, *sorted((p.name, p.stat().st_mtime_ns, p.stat().st_size) for p in folder.iterdir()))
    if state in _FOUND_WHOLE:
        return True
    try:
        if not sums.exists():  # an older version's: nobody knows what was written
            write_atomic(sums, json.dumps(folder_sums(folder)) + "\n")
            return True
        kept = TypeAdapter(dict[str, str]).validate_json(sums.read_bytes())
        whole = bool(kept) and all(file_sum(folder / name) == digest for name, digest in kept.items())
    except RunError:  # a cache that may only be read
        return True
    except (OSError, ValueError):
        return False
    if whole:
        _FOUND_WHOLE.add(state)
    return whole


def _remove_damaged(out: Path) -> None:
    """Aside first, in one step: a process that reads the files has them still."""
    if not out.is_dir():
        return
    aside = Path(tempfile.mkdtemp(dir=out.parent, prefix=f".{out.name}.", suffix=".damaged.tmp"))
    with suppress(FileNotFoundError):  # another process has removed it
        out.rename(aside / out.name)
    shutil.rmtree(aside, ignore_errors=True)


def _remove_abandoned(out: Path) -> None:
    """What processes that were killed over the same checkpoint left: it can be many gigabytes."""
    for folder in out.parent.glob(f".{out.name}.*tmp"):
        with suppress(OSError):  # its process has just put it in place
            if time.time() - max(p.stat().st_mtime for p in (folder, *folder.rglob("*"))) > _ABANDONED:
                shutil.rmtree(folder)
