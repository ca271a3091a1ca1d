"""How a model spec is carried out here: weight type, cache type, flash attention, threads, and the cache's memory."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

from pudistill_cli.backend_api import cpu
from pudistill_cli.backend_api.contract import ModelSpec
from pudistill_cli.did_you_mean import did_you_mean
from pudistill_cli.errors import BackendError, UsageError
from pudistill_llamacpp.native.context import MAX_SEQUENCES, KvType
from pudistill_llamacpp.native.library import library

QUANTS = ("f32", "f16", "bf16", "q8_0")
"""What a student in Hugging Face form can be sampled with."""
OPTIONS = ("quant", "kv", "flash", "cache_mib")
NATIVE_BF16 = frozenset({"AVX-512 bf16", "AMX bf16", "bf16"})
"""CPU features (`cpu.name_and_features`) with which a matrix product of bfloat16 is not made of float32 ones."""
SMALL = 32 << 20
"""Bytes of weights below which threads wait for each other longer than they work."""
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
    """Resolve a spec on this machine.

    `dtype: float32` means exact: float32 weights and cache, and no flash attention, which rounds keys and values to 16
    bit. The other defaults were measured (benchmarks/llamacpp_options.py): weights in bf16 where the CPU multiplies it
    (1.2 times the speed of q8_0, and a third of its error), in q8_0 elsewhere; a cache in f16 with flash attention (1.1
    times the speed of one without, the same error).

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
    return Placement(
        quant=options.get("quant", "f32" if exact else _fast_quant()),
        kv=_kv(kv),
        flash=flash,
        threads=spec.threads or _threads(spec.folder),
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


def _fast_quant() -> str:
    _, features = cpu.name_and_features()
    return "bf16" if NATIVE_BF16 & set(features) else "q8_0"


def _threads(student: Path) -> int:
    files = [student] if student.is_file() else student.glob("*.safetensors")
    return 1 if sum(file.stat().st_size for file in files) < SMALL else cpu.cores()


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
