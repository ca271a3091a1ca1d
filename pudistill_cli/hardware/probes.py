"""Questions to the machine, one a function: memory, CPU, cards, torch's build. No framework is imported."""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Literal, TypeAlias

Maker: TypeAlias = Literal["nvidia", "amd", "apple"]

_FEATURES = {
    "avx2": "AVX2",
    "avx512f": "AVX-512",
    "avx512_vnni": "AVX-512 VNNI",
    "avx512_bf16": "AVX-512 bf16",
    "amx_bf16": "AMX bf16",
    "asimd": "NEON",
    "neon": "NEON",
    "asimddp": "dot product",
    "i8mm": "int8 matmul",
    "bf16": "bf16",
    "sve": "SVE",
}
"""What Linux calls the instructions that decide the speed of a matrix product, and their usual names."""
_SYSCTL = {"hw.optional.arm.FEAT_BF16": "bf16", "hw.optional.arm.FEAT_I8MM": "int8 matmul"}
_NVIDIA_SMI = ("nvidia-smi", "--query-gpu=name,memory.total,memory.free", "--format=csv,noheader,nounits")
_GIB = 2**30


@dataclass(frozen=True, slots=True)
class Card:
    """An accelerator, with its memory in GiB; a free memory that is not known counts as all of it."""

    maker: Maker
    name: str
    memory_gib: float
    free_gib: float


def cores() -> int:
    """CPU threads that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def memory_gib() -> tuple[float, float]:
    """RAM (all, available) in GiB, under a container's limit where there is one; (0, 0) if nothing tells."""
    if sys.platform == "win32":
        return _windows_memory()
    try:
        total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / _GIB
    except (ValueError, OSError):
        return 0.0, 0.0
    line = re.search(r"^MemAvailable:\s+(\d+) kB", _text("/proc/meminfo"), re.MULTILINE)
    available = int(line[1]) * 1024 / _GIB if line else total
    for folder, limit, usage, prefix in (
        ("/sys/fs/cgroup", "memory.max", "memory.current", ""),
        ("/sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_"),
    ):
        if (maximum := _text(f"{folder}/{limit}").strip()).isdigit() and int(maximum) / _GIB < total:
            total = int(maximum) / _GIB
            used = _text(f"{folder}/{usage}").strip()
            kept = int(used) - _cached(f"{folder}/memory.stat", prefix) if used.isdigit() else 0
            available = min(available, total - max(kept, 0) / _GIB)
    return total, max(available, 0.0)


def cpu() -> tuple[str, tuple[str, ...]]:
    """The CPU's name, and which of the instructions that matter it has; empty where nothing tells."""
    if sys.platform == "darwin":
        name = _output("sysctl", "-n", "machdep.cpu.brand_string").strip() or platform.processor()
        has = tuple(label for key, label in _SYSCTL.items() if _output("sysctl", "-n", key).strip() == "1")
        return name, ("NEON", *has) if platform.machine() == "arm64" else has
    text = _text("/proc/cpuinfo")
    model = re.search(r"^(?:model name|Model)\s*:\s*(.+)$", text, re.MULTILINE)
    flags = re.search(r"^(?:flags|Features)\s*:\s*(.+)$", text, re.MULTILINE)
    words = set(flags[1].split()) if flags else set[str]()
    features = dict.fromkeys(label for flag, label in _FEATURES.items() if flag in words)
    return model[1].strip() if model else platform.processor(), tuple(features)


def cards() -> tuple[Card, ...]:
    """The accelerators that a framework could see, the one it takes first in front."""
    if sys.platform == "darwin":
        total, available = memory_gib()
        return (Card("apple", cpu()[0], total, available),) if platform.machine() == "arm64" else ()
    return _nvidia() or _amd()


def torch_build() -> str | None:
    """What the installed torch was built for: "cuda", "rocm" or "cpu"; None without torch."""
    spec = find_spec("torch")
    if spec is None or spec.origin is None:
        return None
    source = _text(Path(spec.origin).with_name("version.py"))
    built = set(re.findall(r"^(cuda|hip|rocm)\b[^=\n]*= *['\"]", source, re.MULTILINE))
    return "rocm" if built & {"hip", "rocm"} else "cuda" if built else "cpu"


def _cached(stat: str, prefix: str) -> int:
    """Bytes of files that a container's kernel keeps in memory and drops when it is wanted; 0 where nothing tells."""
    sizes = re.findall(rf"^{prefix}(?:in)?active_file (\d+)$", _text(stat), re.MULTILINE)
    return sum(map(int, sizes))


def _nvidia() -> tuple[Card, ...]:
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None and visible.strip() in ("", "-1"):
        return ()
    rows = [[part.strip() for part in line.split(",")] for line in _output(*_NVIDIA_SMI).splitlines()]
    gpus: list[Card] = []
    for name, total, free in (row for row in rows if len(row) == 3):
        if total.isdigit():
            gpus.append(Card("nvidia", name, int(total) / 1024, int(free if free.isdigit() else total) / 1024))
        else:  # a card without memory of its own shares the machine's
            gpus.append(Card("nvidia", name, *memory_gib()))
    first = (visible or "").split(",")[0]
    if first.isdigit() and int(first) < len(gpus):
        gpus.insert(0, gpus.pop(int(first)))
    return tuple(gpus)


def _amd() -> tuple[Card, ...]:
    if not Path("/dev/kfd").exists():
        return ()
    gpus: list[Card] = []
    for file in sorted(Path("/sys/class/drm").glob("card*/device/mem_info_vram_total")):
        total, used = _text(file).strip(), _text(file.with_name("mem_info_vram_used")).strip()
        if total.isdigit():
            gib = int(total) / _GIB
            name = _text(file.with_name("product_name")).strip() or "AMD card"
            gpus.append(Card("amd", name, gib, gib - (int(used) / _GIB if used.isdigit() else 0.0)))
    return tuple(gpus)


def _windows_memory() -> tuple[float, float]:
    import ctypes

    # MEMORYSTATUSEX: two 32-bit fields, then seven 64-bit ones, of which the first two are wanted.
    status = (ctypes.c_uint64 * 8)(64)
    if not ctypes.windll.kernel32.GlobalMemoryStatusEx(ctypes.byref(status)):  # type: ignore[attr-defined]
        return 0.0, 0.0
    return status[1] / _GIB, status[2] / _GIB


def _text(path: str | Path) -> str:
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def _output(program: str, *arguments: str) -> str:
    """A program's standard output; empty if it is not there, fails or hangs."""
    path = shutil.which(program)
    if path is None:
        return ""
    try:
        done = subprocess.run([path, *arguments], capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout if done.returncode == 0 else ""
