"""The CPU and the memory beside it, as hardware/ and backends ask for them. No framework is imported."""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
import sys
from pathlib import Path

GIB = 2**30
_UNLIMITED = 1 << 16
"""CPUs: more than any machine has."""
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
_WAITING = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME", "KMP_LIBRARY")
"""How OpenMP's threads wait: the standard's variable, GNU's and LLVM's."""
_SYSCTL = {"hw.optional.arm.FEAT_BF16": "bf16", "hw.optional.arm.FEAT_I8MM": "int8 matmul"}


def cores() -> int:
    """CPU threads that this process may use, under a container's quota where there is one."""
    threads = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(threads, int(_quota())))


def _quota() -> float:
    """CPUs' worth of time that a container's kernel grants; `_UNLIMITED` where it sets no limit."""
    granted = text_of("/sys/fs/cgroup/cpu.max").split() or [
        text_of(f"/sys/fs/cgroup/cpu/cpu.cfs_{name}_us").strip() for name in ("quota", "period")
    ]
    if len(granted) == 2 and all(value.isdigit() and int(value) for value in granted):
        return int(granted[0]) / int(granted[1])
    return _UNLIMITED


def let_idle_threads_sleep() -> None:
    """Have OpenMP's threads sleep when they wait for each other, unless the environment says how they wait.

    They spin by default, and take the cores from those that they wait for where other programs want them too: two
    threads on two busy cores were ten times slower than one. To be called before torch or llama.cpp are loaded, which
    read it once.
    """
    if not any(name in os.environ for name in _WAITING):
        os.environ["OMP_WAIT_POLICY"] = "passive"


def memory_gib() -> tuple[float, float]:
    """RAM (all, available) in GiB, under a container's limit where there is one; (0, 0) if nothing tells."""
    if sys.platform == "win32":
        return _windows_memory()
    try:
        total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / GIB
    except (ValueError, OSError):
        return 0.0, 0.0
    line = re.search(r"^MemAvailable:\s+(\d+) kB", text_of("/proc/meminfo"), re.MULTILINE)
    available = int(line[1]) * 1024 / GIB if line else total
    for folder, limit, usage, prefix in (
        ("/sys/fs/cgroup", "memory.max", "memory.current", ""),
        ("/sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_"),
    ):
        if (maximum := text_of(f"{folder}/{limit}").strip()).isdigit() and int(maximum) / GIB < total:
            total = int(maximum) / GIB
            used = text_of(f"{folder}/{usage}").strip()
            kept = int(used) - _cached(f"{folder}/memory.stat", prefix) if used.isdigit() else 0
            available = min(available, total - max(kept, 0) / GIB)
    return total, max(available, 0.0)


def name_and_features() -> tuple[str, tuple[str, ...]]:
    """The CPU's name, and which of the instructions that matter it has; empty where nothing tells."""
    if sys.platform == "darwin":
        name = output_of("sysctl", "-n", "machdep.cpu.brand_string").strip() or platform.processor()
        has = tuple(label for key, label in _SYSCTL.items() if output_of("sysctl", "-n", key).strip() == "1")
        return name, ("NEON", *has) if platform.machine() == "arm64" else has
    text = text_of("/proc/cpuinfo")
    model = re.search(r"^(?:model name|Model)\s*:\s*(.+)$", text, re.MULTILINE)
    flags = re.search(r"^(?:flags|Features)\s*:\s*(.+)$", text, re.MULTILINE)
    words = set(flags[1].split()) if flags else set[str]()
    features = dict.fromkeys(label for flag, label in _FEATURES.items() if flag in words)
    return model[1].strip() if model else platform.processor(), tuple(features)


def _cached(stat: str, prefix: str) -> int:
    """Bytes of files that a container's kernel keeps in memory and drops when it is wanted; 0 where nothing tells."""
    sizes = re.findall(rf"^{prefix}(?:in)?active_file (\d+)$", text_of(stat), re.MULTILINE)
    return sum(map(int, sizes))


def _windows_memory() -> tuple[float, float]:
    import ctypes

    # MEMORYSTATUSEX: two 32-bit fields, then seven 64-bit ones, of which the first two are wanted.
    status = (ctypes.c_uint64 * 8)(64)
    if not ctypes.windll.kernel32.GlobalMemoryStatusEx(ctypes.byref(status)):  # type: ignore[attr-defined]
        return 0.0, 0.0
    return status[1] / GIB, status[2] / GIB


def text_of(path: str | Path) -> str:
    """A file's text; empty where it cannot be read."""
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def output_of(program: str, *arguments: str) -> str:
    """A program's standard output; empty if it is not there, fails or hangs."""
    path = shutil.which(program)
    if path is None:
        return ""
    try:
        done = subprocess.run([path, *arguments], capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout if done.returncode == 0 else ""
