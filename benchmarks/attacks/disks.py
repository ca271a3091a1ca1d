"""A disk that fills at several moments of a run; with room again, the run goes on to what a quiet run ends with.

The disk is a file system in memory, mounted in a namespace of its own (Linux, `unshare -rm`): nothing of the machine
changes, and no right is needed.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks.attacks.small_run import SmallRun, SmallRunAt
from benchmarks.cells import ROOT

SHARES = (0.05, 0.25, 0.5, 0.75, 0.95)
"""Room on the disk, as a share of what a quiet run takes."""
NAMESPACE = ("unshare", "--map-root-user", "--mount")


@dataclass(frozen=True)
class FullDisk:
    """What came of one disk."""

    share: float
    code: int
    """Exit code when the disk was full; 7 is the documented one."""
    named: bool
    """Whether the message named a file or folder and what to do."""
    tracebacks: int
    hangs: int
    differing: list[str]
    """What differed from the quiet run's, once there was room."""


def can_mount() -> bool:
    """Whether this system lets a person mount a file system of their own."""
    if shutil.which("unshare") is None:
        return False
    return subprocess.run([*NAMESPACE, "true"], capture_output=True, check=False).returncode == 0


def fill_disks(folder: Path) -> list[FullDisk]:
    """One run for each share of the room that it needs."""
    recipe = SmallRun.make(folder / "disks", "torch")
    over = recipe.run.finish()
    if over.code:
        raise SystemExit(f"The quiet run ended with {over.code}:\n{over.said}")
    quiet = recipe.run.put_aside("quiet")
    needed = sum(p.stat().st_size for p in quiet.path.rglob("*") if p.is_file())
    results: list[FullDisk] = []
    for share in SHARES:
        recipe.run.runs.mkdir(exist_ok=True)
        command = [*NAMESPACE, sys.executable, "-m", "benchmarks.attacks.disks", str(recipe.folder)]
        done = subprocess.run(
            [*command, str(int(share * needed)), str(share)], cwd=ROOT, capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise SystemExit(f"The attack with a full disk failed:\n{done.stderr}")
        results.append(FullDisk(**json.loads(done.stdout)))
    return results


def _attack(folder: Path, size: int, share: float) -> FullDisk:
    """In the namespace: a run on a small disk, then on the same disk with room."""
    run, quiet = SmallRunAt(SmallRun(folder), folder / "runs"), SmallRunAt(SmallRun(folder), folder / "quiet")
    _mount(run.runs, size)
    full = run.finish()
    _mount(run.runs, 1 << 30, "remount,")
    room = run.finish()
    expected, found = quiet.contents(), run.contents() if not room.code else {}
    differing = sorted(name for name in expected | found if expected.get(name) != found.get(name))
    ends = (full, room)
    errors = [event for event in full.events if event["event"] == "error"]
    named = any(str(run.runs) in event["message"] and event["hint"] for event in errors)
    return FullDisk(
        share, full.code, named, sum(e.has_traceback for e in ends), sum(e.code == -9 for e in ends), differing
    )


def _mount(path: Path, size: int, before: str = "") -> None:
    options = f"{before}size={max(size, os.sysconf('SC_PAGE_SIZE'))}"
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "none", str(path)], check=True, capture_output=True)


if __name__ == "__main__":
    print(json.dumps(asdict(_attack(Path(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3])))))
