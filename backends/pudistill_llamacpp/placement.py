"""How a model spec is carried out here: weight type, cache type, flash attention, threads, and the cache's memory."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

from pudistill_cli.backend_api import cpu
from pudistill_cli.backend_api.contract import ModelSpec
from pudistill_cli.backend_api.speed_trials import SMALL
from pudistill_cli.did_you_mean import did_you_mean
from pudistill_cli.errors import BackendError, UsageError
from pudistill_llamacpp.native.context import MAX_SEQUENCES, KvType
from pudistill_llamacpp.native.library import library

FILE = "file"
"""The weights of a GGUF student as they came."""
QUANTS = ("f32", "f16", "bf16", "q8_0", FILE)
"""What a student can be sampled with."""
OPTIONS = ("quant", "kv", "flash", "cache_mib")
NATIVE_BF16 = frozenset({"AVX-512 bf16", "AMX bf16", "bf16"})
"""CPU features (`cpu.name_and_features`) with which a matrix product of bfloat16 is not made of float32 ones."""
CPU_ROWS = 64
"""Sequences that a CPU decodes together: 128 were 3 % faster, and take twice the cache."""
CACHE_SHARE = 4
"""The key-value cache takes at most 1 / CACHE_SHARE of the RAM unless `cache_mib` says otherwise."""
CACHE_MIB = 1024
"""Of the cache where the RAM is unknown."""


@dataclass(frozen=True, slots=True)
class Placement:
    """Every choice that `auto` stands for."""

    quant: str
    kv: KvType
    flash: bool
    threads: int
    gpu: bool
    rows: int
    """Most sequences that are decoded together."""
    cache_bytes: int

    def describe(self) -> dict[str, str]:
        """What is recorded in the run; the options among it can be given back as they are."""
        return {
            "device": "gpu" if self.gpu else "cpu",
            "threads": str(self.threads),
            "quant": self.quant,
            "kv": self.kv,
            "flash": "on" if self.flash else "off",
            "rows": str(self.rows),
            "cache_mib": str(self.cache_bytes >> 20),
        }


def place(spec: ModelSpec) -> Placement:
    """Resolve a spec on this machine by rules; a run tries instead which weights and threads are fastest (speed.py).

    `dtype: float32` means exact: float32 weights and cache, and no flash attention, which rounds keys and values to 16
    bit. The other defaults were measured (benchmarks/llamacpp_options.py): weights in bf16 where the CPU multiplies it
    (1.2 times the speed of q8_0, and a third of its error), in q8_0 elsewhere; a cache in f16 with flash attention (1.1
    times the speed of one without, the same error). A GGUF file is opened as it is unless `quant` says otherwise.

    Raises:
        UsageError: an option that is unknown, or does not fit the others.
        BackendError: a device that this build of llama.cpp cannot use.
    """
    options = _checked(spec.options)
    exact = spec.dtype == "float32"
    flash = options.get("flash", "off" if exact else "on") == "on"
    kv = options.get("kv", "f32" if exact else "f16")
    if kv == "q8_0" and not flash:
        raise UsageError("A q8_0 cache needs flash attention.", "Set flash: on, or kv: f16.")
    own_file = spec.folder.is_file()
    quant = options.get("quant", FILE if own_file else "f32" if exact else fast_quant())
    if quant == FILE and not own_file:
        raise UsageError("The option quant is file, but the student is no GGUF file.", "Set quant: auto.")
    return Placement(
        quant=quant,
        kv=_kv(kv),
        flash=flash,
        threads=spec.threads or (1 if is_small(spec.folder) else cpu.cores()),
        gpu=(gpu := _gpu(spec.device)),
        rows=min(spec.sample_rows, MAX_SEQUENCES if gpu else CPU_ROWS),
        cache_bytes=_cache_mib(options.get("cache_mib")) << 20,
    )


def _checked(options: Mapping[str, str]) -> dict[str, str]:
    """Options without those that say `auto`."""
    known = {"quant": QUANTS, "kv": get_args(KvType), "flash": ("on", "off")}
    for name, value in options.items():
        if name not in OPTIONS:
            raise UsageError(
                f"The llamacpp backend has no option {name!r}{did_you_mean(name, OPTIONS)}.",
                f"It has: {', '.join(OPTIONS)}.",
            )
        if value != "auto" and name in known and value not in known[name]:
            raise UsageError(
                f"The option {name} cannot be {value!r}{did_you_mean(value, known[name])}.",
                f"It is one of: auto, {', '.join(known[name])}.",
            )
    return {name: value for name, value in options.items() if value != "auto"}


def fast_quant() -> str:
    """What is fast by rule, where nothing is tried."""
    _, features = cpu.name_and_features()
    return "bf16" if NATIVE_BF16 & set(features) else "q8_0"


def is_small(student: Path) -> bool:
    """Whether a student is too small for threads to pay."""
    files = [student] if student.is_file() else student.glob("*.safetensors")
    return sum(file.stat().st_size for file in files) < SMALL


def _kv(name: str) -> KvType:
    return next(kv for kv in get_args(KvType) if kv == name)


def _gpu(device: str) -> bool:
    offloads = bool(library().llama_supports_gpu_offload())
    if device not in ("auto", "cpu") and not offloads:
        raise BackendError(
            f"student.device is {device}, but the installed llama-cpp-python computes on the CPU alone.",
            'Build it for the card (CMAKE_ARGS="-DGGML_CUDA=on" pip install --force-reinstall --no-binary :all: '
            "llama-cpp-python), or set student.device: cpu.",
        )
    return offloads and device != "cpu"


def _cache_mib(value: str | None) -> int:
    if value is None:
        total, _ = cpu.memory_gib()
        return int(total * 1024) // CACHE_SHARE or CACHE_MIB
    if not value.isdigit() or not int(value):
        raise UsageError(f"The option cache_mib cannot be {value!r}.", "It is a number of MiB, such as 4096, or auto.")
    return int(value)
