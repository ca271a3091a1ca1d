"""Where the student runs, in which precision and on how many threads."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from pudistill_cli.backend_api.contract import ModelSpec
from pudistill_cli.backend_api.speed_trials import SMALL
from pudistill_cli.errors import BackendError
from pudistill_cli.models.checkpoint_files import count_parameters

BF16_PAYS_FROM = 50_000_000
"""Parameters from which decoding on a CPU is bound by reading the weights, which bfloat16 halves."""


@dataclass(frozen=True, slots=True)
class Placement:
    """A device, a dtype and a number of CPU threads, all resolved."""

    device: torch.device
    dtype: torch.dtype
    threads: int

    def describe(self) -> Mapping[str, str]:
        """For the record of a run."""
        dtype = str(self.dtype).removeprefix("torch.")
        return {"device": str(self.device), "dtype": dtype, "threads": str(self.threads)}


def place(spec: ModelSpec) -> Placement:
    """Resolve a spec's `auto` settings on this machine.

    Raises:
        BackendError: the device it names is not there, or cannot do the dtype it names, or the base is quantised.
    """
    if spec.base != "bf16":
        raise BackendError(f"torch cannot hold the base weights as {spec.base}.", "Use --set lora.base=bf16")
    device = _device(spec.device)
    dtype = _best_dtype(device, spec.folder) if spec.dtype == "auto" else getattr(torch, spec.dtype)
    if dtype is torch.bfloat16 and device.type == "cuda" and not torch.cuda.is_bf16_supported():
        raise BackendError(f"{device} has no bfloat16.", "Use --set student.dtype=float32")
    return Placement(device, dtype, spec.threads or (1 if is_small(spec.folder) else torch.get_num_threads()))


def is_small(folder: Path) -> bool:
    """Whether a checkpoint is too small for threads to pay."""
    return _parameters(folder) * 2 < SMALL


def _device(name: str) -> torch.device:
    present = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if name == "auto":
        return torch.device(next(kind for kind, there in present.items() if there))  # ROCm calls itself cuda
    kind, _, number = name.partition(":")
    if not present.get(kind) or (kind == "cuda" and number and int(number) >= torch.cuda.device_count()):
        available = ", ".join(kind for kind, there in present.items() if there)
        raise BackendError(
            f"There is no device {name!r} here; torch sees: {available}.", "Use --set student.device=auto"
        )
    return torch.device(name)


def _best_dtype(device: torch.device, folder: Path) -> torch.dtype:
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float32
    if device.type == "cpu" and _cpu_has_bf16() and _parameters(folder) > BF16_PAYS_FROM:
        return torch.bfloat16
    return torch.float32


def _cpu_has_bf16() -> bool:
    """Whether the CPU multiplies bfloat16 natively; False where torch is too old to tell."""
    capabilities = getattr(torch.cpu, "get_capabilities", dict)()
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))


def _parameters(folder: Path) -> int:
    """Numbers stored in a checkpoint, by the headers of its safetensors files."""
    return count_parameters(tuple(folder.glob("*.safetensors")))
