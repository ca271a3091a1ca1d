"""Where the student runs, and in which precision."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import mlx.core as mx

from pudistill_cli.backend_api.contract import ModelSpec
from pudistill_cli.errors import BackendError, UsageError
from pudistill_cli.models.checkpoint_files import read_json
from pudistill_mlx.quirks import longest_context

_NAMES = {"gpu": "gpu", "mps": "gpu", "cpu": "cpu"}
"""What a recipe may call a device: on Apple Silicon torch's mps is the same GPU."""


@dataclass(frozen=True, slots=True)
class Placement:
    """A device and a dtype, resolved."""

    device: Literal["gpu", "cpu"]
    dtype: Literal["float32", "bfloat16"]

    @property
    def mlx_dtype(self) -> mx.Dtype:
        """As MLX names it."""
        return getattr(mx, self.dtype)

    def use(self) -> None:
        """Make the device MLX's default one."""
        mx.set_default_device(getattr(mx, self.device))

    def describe(self) -> Mapping[str, str]:
        """For the record of a run. MLX chooses its threads itself."""
        return {"device": self.device, "dtype": self.dtype}


def place(spec: ModelSpec) -> Placement:
    """Resolve a spec's `auto` settings on this machine.

    Raises:
        BackendError: the device it names is not there, MLX cannot hold the base so, or it would compute this
            checkpoint otherwise in so long a context.
        UsageError: options, of which it has none.
    """
    if spec.options:
        raise UsageError("The mlx backend has no options.", "Leave backend.options out, or name another engine.")
    if spec.base == "nf4":
        raise BackendError("MLX has no nf4.", "Use --set lora.base=4bit")
    _check_context(spec)
    device = _device(spec.device)
    best = "bfloat16" if device == "gpu" else "float32"
    return Placement(device, best if spec.dtype == "auto" else spec.dtype)


def _device(name: str) -> Literal["gpu", "cpu"]:
    gpu = mx.is_available(mx.gpu)
    if name == "auto":
        return "gpu" if gpu else "cpu"
    wanted = _NAMES.get(name)
    if wanted is None or (wanted == "gpu" and not gpu):
        raise BackendError(
            f"There is no device {name!r} here; MLX sees: {'gpu, ' if gpu else ''}cpu.",
            "Use --set student.device=auto",
        )
    return "gpu" if wanted == "gpu" else "cpu"


def _check_context(spec: ModelSpec) -> None:
    config = read_json(spec.folder / "config.json")
    most = longest_context(config)
    if most is not None and spec.context > most:
        raise BackendError(
            f"The student has a sliding window of {most} tokens, which mlx-lm leaves out for {config['model_type']!r}: "
            f"in a context of {spec.context} it would compute another model.",
            f"Use --set student.context={most}",
        )
