"""What a run can leave behind: formats, and how each is stored."""

from __future__ import annotations

from dataclasses import dataclass

CORE = ("hf", "adapter")
"""Written by the core itself, whatever the backend."""
OF_BACKENDS = ("gguf", "gguf-adapter", "mlx")
"""Written by the backend that declares them (`Capabilities.exports`)."""
FORMATS = (*CORE, *OF_BACKENDS)

MLX_FULL = {16: "bf16", 32: "f32"}
"""Bits of MLX weights that are not quantised, and their variants."""
MLX_BITS = (3, 4, 5, 6, 8, *MLX_FULL)
MLX_GROUP_SIZES = (32, 64, 128)
MLX_GROUP_SIZE = 64
"""mlx-lm's own, which is left out of the variant's name."""


@dataclass(frozen=True, slots=True)
class Target:
    """A format, and its variant: a dtype, a quantisation; "" where it has one way only."""

    format: str
    variant: str = ""

    def __str__(self) -> str:
        """The name of the export's folder and stage; merged weights are always in "hf"."""
        return f"{self.format}-{self.variant}" if self.variant and self.format not in CORE else self.format


def mlx_variant(bits: int, group_size: int) -> str:
    """The name of a way to store MLX weights: 4bit, 4bit-g32, bf16."""
    name = MLX_FULL.get(bits, f"{bits}bit")
    return name if bits in MLX_FULL or group_size == MLX_GROUP_SIZE else f"{name}-g{group_size}"


def keeps_more(target: Target) -> str:
    """What to type where a backend's format lost part of the training; nothing for one that loses none."""
    if target.format == "gguf":
        return "Use a larger --quant, or --format gguf-adapter."
    if target.format != "mlx":
        return ""
    bits = next(b for b in MLX_BITS if target.variant.startswith(mlx_variant(b, MLX_GROUP_SIZE)))
    more = [str(b) for b in (8, *MLX_FULL) if b > bits]
    return f"Use --bits {' or '.join(more)}, or --format adapter." if more else "Use --format adapter."
