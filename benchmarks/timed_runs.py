"""A run of `pudistill` that is timed: a process of its own, whose peak memory the operating system tells."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.cells import ROOT


def timed_run(
    arguments: Sequence[str], folder: Path, **environment: str
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """`pudistill run` into `folder/runs`, in a process of its own: its events, and what it took, by stage.

    Raises:
        SystemExit: the run did not end well; what it said is in the message.
    """
    options = ["--json", "--runs", str(folder / "runs")]
    command = [sys.executable, "-m", "pudistill_cli", "run", *arguments, *options]
    started = time.monotonic()
    with (folder / "stderr.txt").open("w+") as errors:
        process = subprocess.Popen(
            command, cwd=ROOT, env={**os.environ, **environment}, stdout=subprocess.PIPE, stderr=errors, text=True
        )
        assert process.stdout is not None
        events = [json.loads(line) for line in process.stdout]
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        seconds = time.monotonic() - started
        if process.returncode:
            errors.seek(0)
            said = [e["message"] for e in events if e["event"] == "error"]
            raise SystemExit(f"pudistill run ended with {process.returncode}: {said} {errors.read()[-3000:]}")
    peak = usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024)  # kilobytes, but bytes on macOS
    stages = {e["stage"]: e["seconds"] for e in events if e["event"] == "finished"}
    return events, {
        "seconds": round(seconds, 1),
        "cpu_seconds": round(usage.ru_utime + usage.ru_stime, 1),
        "peak_rss_mib": round(peak / 2**20),
        "stages": {**stages, "everything else": round(seconds - sum(stages.values()), 1)},
    }


def verifications(run: Path) -> dict[str, Any]:
    """What each export of a run was found to be, by its folder's name."""
    cards = sorted(run.glob("export/*/pudistill.json"))
    return {path.parent.name: json.loads(path.read_text())["verification"] for path in cards}


def machine(device: str = "cpu") -> dict[str, Any]:
    """Where the numbers come from."""
    import torch
    import transformers

    cpu = platform.processor()
    if (info := Path("/proc/cpuinfo")).is_file():
        cpu = next((line.split(":")[1].strip() for line in info.open() if line.startswith("model name")), cpu)
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    return {
        "cpu": cpu,
        **({"card": torch.cuda.get_device_name(device)} if device.startswith("cuda") else {}),
        "cores": os.cpu_count(),
        "load_average": [round(x, 1) for x in os.getloadavg()],
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "commit": commit.stdout.strip(),
    }
