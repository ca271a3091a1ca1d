"""GGUF files that appear whole or not at all, where there is room for them."""

from __future__ import annotations

import os
import shutil
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path

from pudistill_cli.errors import ExportError
from pudistill_cli.files.atomic_files import sync_folder
from pudistill_cli.files.private_files import make_private_folder

_ROOM = 16 << 20
"""Bytes for the file system's own use."""


@contextmanager
def whole_file(
    out: Path, needed: int, *, takes: str = "The GGUF file takes", advice: str = "write a smaller type"
) -> Generator[Path]:
    """A name to write to; what is there at the end of the block becomes `out`, and nothing is left if it fails.

    `takes` is what takes `needed` bytes, and `advice` what helps where there are fewer.

    Raises:
        ExportError: there is no room for it, or it cannot be written.
    """
    temporary = out.with_name(f".{out.name}.tmp")
    try:
        make_private_folder(out.parent)
        free = shutil.disk_usage(out.parent).free
        if free < needed + _ROOM:
            raise ExportError(
                f"{takes} {needed / 1e9:.1f} GB, and {free / 1e9:.1f} GB are free in {out.parent}.",
                f"Make room, or {advice}.",
            )
        yield temporary
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        temporary.replace(out)
        sync_folder(out.parent)
    except OSError as error:
        raise cannot_write(out, error.strerror or str(error)) from error
    finally:
        with suppress(OSError):
            temporary.unlink()


def cannot_write(out: Path, reason: str) -> ExportError:
    """The message for a file that cannot be written."""
    return ExportError(f"Cannot write {out}: {reason}.", "Check the permissions and the free space there.")
