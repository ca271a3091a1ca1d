"""Checkpoints in Hugging Face form that are made of something else, once, and kept in the cache."""

from __future__ import annotations

import json
import shutil
import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from pudistill_cli.atomic_files import sync_folder, sync_tree
from pudistill_cli.errors import DataError
from pudistill_cli.private_files import make_private_folder

_ROOM = 16 << 20
"""Bytes for configs, tokenizer and the file system's own use."""
_ABANDONED = 24 * 3600.0
"""Seconds after which a half-made checkpoint to which nothing was added is a killed process's."""


def kept_checkpoint(out: Path, needed: int, takes: str, write: Callable[[Path], None]) -> Path:
    """The folder `out`, made by `write` unless it is there; `takes` is what takes `needed` bytes, for a message.

    The folder appears whole or not at all. Several processes may make it at once: the first one's is everyone's.

    Raises:
        DataError: there is no room for it, or it cannot be written.
    """
    if out.is_dir():
        return out
    try:
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
    except OSError as error:
        raise DataError(
            f"Cannot write {out}: {error.strerror or error}.", "Check the permissions and the free space there."
        ) from error
    return out


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write a config as transformers does."""
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _remove_abandoned(out: Path) -> None:
    """What processes that were killed over the same checkpoint left: it can be many gigabytes."""
    for folder in out.parent.glob(f".{out.name}.*tmp"):
        with suppress(OSError):  # its process has just put it in place
            if time.time() - max(p.stat().st_mtime for p in (folder, *folder.rglob("*"))) > _ABANDONED:
                shutil.rmtree(folder)
