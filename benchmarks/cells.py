"""A benchmark's cells: each a process of its own on one core, and cached by the code that it depends on."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from hashlib import blake2b
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
ONE_THREAD = {f"{library}_NUM_THREADS": "1" for library in ("OMP", "MKL", "OPENBLAS")}


def code_hash(depends_on: Sequence[str]) -> str:
    """Of the files, and of those below the folders, that a cell's result depends on."""
    digest = blake2b(digest_size=8)
    for name in depends_on:
        path = ROOT / name
        files = sorted(p for p in path.rglob("*") if p.is_file() and p.suffix != ".pyc") if path.is_dir() else [path]
        for file in files:
            if file.name != "README.md":
                digest.update(file.relative_to(ROOT).as_posix().encode() + file.read_bytes())
    return digest.hexdigest()


def run_alone(title: str, module: str, *arguments: str) -> None:
    """Run a module in a process of its own, on one thread.

    Raises:
        SystemExit: it failed; with its last words.
    """
    command = [sys.executable, "-m", module, *arguments]
    done = subprocess.run(command, cwd=ROOT, env=os.environ | ONE_THREAD, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{title} failed:\n{done.stderr[-4000:]}")
