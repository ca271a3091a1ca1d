"""What the machine has beside its CPU: cards, and what the installed torch was built for. No framework is imported."""

from __future__ import annotations

import os
import platform
import re
import sys
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Literal, TypeAlias

from pudistill_cli.backend_api import cpu

Maker: TypeAlias = Literal["nvidia", "amd", "apple"]


_NVIDIA_SMI = ("nvidia-smi", "--query-gpu=name,memory.total,memory.free", "--format=csv,noheader,nounits")


@dataclass(frozen=True, slots=True)
class Card:
    """An accelerator, with its memory in GiB; a free memory that is not known counts as all of it."""

    maker: Maker
    name: str
    memory_gib: float
    free_gib: float


def cards() -> tuple[Card, ...]:
    """The accelerators that a framework could see, the one it takes first in front."""
    if sys.platform == "darwin":
        total, available = cpu.memory_gib()
        return (Card("apple", cpu.name_and_features()[0], total, available),) if platform.machine() == "arm64" else ()
    return _nvidia() or _amd()


def torch_build() -> str | None:
    """What the installed torch was built for: "cuda", "rocm" or "cpu"; None without torch."""
    spec = find_spec("torch")
    if spec is None or spec.origin is None:
        return None
    source = cpu.text_of(Path(spec.origin).with_name("version.py"))
    built = set(re.findall(r"^(cuda|hip|rocm)\b[^=\n]*= *['\"]", source, re.MULTILINE))
    return "rocm" if built & {"hip", "rocm"} else "cuda" if built else "cpu"


def _nvidia() -> tuple[Card, ...]:
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None and visible.strip() in ("", "-1"):
        return ()
    rows = [[part.strip() for part in line.split(",")] for line in cpu.output_of(*_NVIDIA_SMI).splitlines()]
    gpus: list[Card] = []
    for name, total, free in (row for row in rows if len(row) == 3):
        if total.isdigit():
            gpus.append(Card("nvidia", name, int(total) / 1024, int(free if free.isdigit() else total) / 1024))
        else:  # a card without memory of its own shares the machine's
            gpus.append(Card("nvidia", name, *cpu.memory_gib()))
    first = (visible or "").split(",")[0]
    if first.isdigit() and int(first) < len(gpus):
        gpus.insert(0, gpus.pop(int(first)))
    return tuple(gpus)


def _amd() -> tuple[Card, ...]:
    if not Path("/dev/kfd").exists():
        return ()
    gpus: list[Card] = []
    for file in sorted(Path("/sys/class/drm").glob("card*/device/mem_info_vram_total")):
        total, used = cpu.text_of(file).strip(), cpu.text_of(file.with_name("mem_info_vram_used")).strip()
        if total.isdigit():
            gib = int(total) / cpu.GIB
            name = cpu.text_of(file.with_name("product_name")).strip() or "AMD card"
            gpus.append(Card("amd", name, gib, gib - (int(used) / cpu.GIB if used.isdigit() else 0.0)))
    return tuple(gpus)
