"""A whole run where there is no network: in a namespace without an interface, under a trace of its system calls."""

from __future__ import annotations

import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from benchmarks.attacks.small_run import SmallRun

NAMESPACE = ("unshare", "--map-root-user", "--net")
_INTERNET = re.compile(r"socket\(AF_INET6?\b")


@dataclass(frozen=True)
class Offline:
    """What came of a run without a network."""

    backend: str
    namespace: bool
    """Whether it ran where there is no interface; not every system allows that."""
    sockets: int | None
    """Internet sockets that were opened, by strace; None where it is not installed."""
    code: int
    tracebacks: int
    hangs: int


def run_offline(folder: Path, backend: str) -> Offline:
    """The whole run, from answers in a file to exports."""
    recipe = SmallRun.make(folder / f"offline-{backend}", backend)
    trace = recipe.folder / "trace.txt"
    has_namespace, has_strace = _works(NAMESPACE), _works(("strace", "-o", str(trace)))
    before = [*(NAMESPACE if has_namespace else ())]
    before += ["strace", "-f", "-e", "trace=socket", "-o", str(trace)] if has_strace else []
    over = recipe.run.finish(before=before)
    sockets = len(_INTERNET.findall(trace.read_text(encoding="utf-8"))) if has_strace else None
    return Offline(backend, has_namespace, sockets, over.code, int(over.has_traceback), int(over.code == -9))


def _works(before: tuple[str, ...]) -> bool:
    if shutil.which(before[0]) is None:
        return False
    return subprocess.run([*before, "true"], capture_output=True, check=False).returncode == 0
