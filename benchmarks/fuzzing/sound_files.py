"""The sound files that are damaged, each made once in a process and removed with it (seeds.py has what is in them)."""

from __future__ import annotations

import atexit
import shutil
from collections.abc import Callable
from functools import cache
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

from benchmarks.fuzzing import seeds


@cache
def _folder() -> Path:
    """Where the sound files are made, once in a process; it is removed with it."""
    folder = Path(mkdtemp(prefix="pudistill-seeds-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def _made(name: str, make: Callable[[Path], Any]) -> Path:
    make(_folder() / name)
    return _folder() / name


@cache
def student(tokenizer: str, *, shards: bool = False) -> Path:
    """A student's folder."""
    name = f"student-{tokenizer}{'-shards' if shards else ''}"
    return _made(name, lambda folder: seeds.write_student(folder, tokenizer, shards=shards))


@cache
def adapter() -> Path:
    """An adapter's folder."""
    return _made("adapter", seeds.write_adapter)


@cache
def gguf(tokenizer: str) -> bytes:
    """The student as a GGUF file."""
    from pudistill_llamacpp.convert.writer import write_gguf

    return _made(f"{tokenizer}.gguf", lambda file: write_gguf(student(tokenizer), file, dtype="f32")).read_bytes()
