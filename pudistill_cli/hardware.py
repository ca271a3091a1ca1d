"""What this machine is, found without importing a framework, and the backend that fits it best."""

from __future__ import annotations

import os
import platform
import shutil
import sys
from dataclasses import dataclass

from pudistill_cli.contract import Backend
from pudistill_cli.errors import BackendError
from pudistill_cli.registry import GAINS, usable


@dataclass(frozen=True, slots=True)
class Hardware:
    """The platform, its cores and memory, and which accelerator it seems to have."""

    system: str
    machine: str
    cores: int
    memory_gib: float
    accelerator: str
    """"apple", "nvidia", "amd" or "none", by what the platform and its drivers' tools show."""


def detect() -> Hardware:
    """Look at the machine: no framework is imported and no device is opened."""
    apple = sys.platform == "darwin" and platform.machine() == "arm64"
    accelerator = "none"
    if apple:
        accelerator = "apple"
    elif shutil.which("nvidia-smi") or os.path.exists("/proc/driver/nvidia/version"):
        accelerator = "nvidia"
    elif os.path.exists("/dev/kfd"):
        accelerator = "amd"
    return Hardware(platform.system(), platform.machine(), _cores(), _memory_gib(), accelerator)


def _cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _memory_gib() -> float:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    except (AttributeError, ValueError, OSError):  # Windows has no sysconf
        return 0.0


@dataclass(frozen=True, slots=True)
class Choice:
    """The backends of a run, and why these."""

    engine: Backend
    learner: Backend
    reason: str
    advice: str = ""


def choose(engine: str, learner: str, installed: dict[str, Backend], hardware: Hardware) -> Choice:
    """Resolve a recipe's `backend:` to installed backends that can run here.

    Raises:
        BackendError: a named backend is missing or cannot run, or `auto` finds none.
    """
    if engine != "auto" and learner != "auto":
        return Choice(usable(engine, installed), usable(learner, installed), "named in the recipe")
    preferred = ("mlx", "torch") if hardware.accelerator == "apple" else ("torch", "mlx")
    working = [name for name in preferred if name in installed and installed[name].problem() is None]
    if not working:
        problems = [f"{name}: {backend.problem()}" for name, backend in installed.items() if backend.problem()]
        raise BackendError(
            "No backend can run on this machine. " + "; ".join(problems),
            "Reinstall with the platform's default backend: pip install pudistill",
        )
    best = installed[working[0]]
    reason = {"apple": "Apple Silicon", "nvidia": "an NVIDIA card", "amd": "an AMD card"}.get(
        hardware.accelerator, f"{hardware.machine} CPU, {hardware.cores} cores"
    )
    advice = ""
    if hardware.accelerator == "none" and "llamacpp" not in installed:
        advice = f"The llamacpp backend is not part of this installation; it would bring {GAINS['llamacpp']}."
    return Choice(
        best if engine == "auto" else usable(engine, installed),
        best if learner == "auto" else usable(learner, installed),
        reason,
        advice,
    )
