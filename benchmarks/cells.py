"""A benchmark's cells: each a process of its own on one core, and cached by the code that it depends on."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from collections.abc import Sequence
from hashlib import blake2b
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
ONE_THREAD = {f"{library}_NUM_THREADS": "1" for library in ("OMP", "MKL", "OPENBLAS")}


def code_hash(depends_on: Sequence[str]) -> str:
    """Of the files, and of those below the folders, that a cell's result depends on.

    Comments, layout and docstrings of Python files change nothing, nor do Markdown files.
    """
    digest = blake2b(digest_size=8)
    for name in depends_on:
        path = ROOT / name
        files = sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]
        for file in files:
            if file.suffix not in {".pyc", ".md"}:
                content = meaning(file.read_text(encoding="utf-8")) if file.suffix == ".py" else file.read_bytes()
                digest.update(file.relative_to(ROOT).as_posix().encode() + b"\0" + content)
    return digest.hexdigest()


def meaning(source: str) -> bytes:
    """A module's syntax tree without its docstrings."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            node.body = [n for n in node.body if not (isinstance(n, ast.Expr) and isinstance(n.value, ast.Constant))]
    return ast.dump(tree).encode()


def run_alone(title: str, module: str, *arguments: str) -> None:
    """Run a module in a process of its own, on one thread.

    Raises:
        SystemExit: it failed; with its last words.
    """
    command = [sys.executable, "-m", module, *arguments]
    done = subprocess.run(command, cwd=ROOT, env=os.environ | ONE_THREAD, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{title} failed:\n{done.stderr[-4000:]}")
