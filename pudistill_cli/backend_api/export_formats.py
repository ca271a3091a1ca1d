"""What a run can leave behind: formats, and how each is stored."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

CORE = ("hf", "adapter")
"""Written by the core itself, whatever the backend."""
OF_BACKENDS = ("gguf", "gguf-adapter", "mlx")
"""Written by the backend that declares them (`Capabilities.exports`)."""
FORMATS = (*CORE, *OF_BACKENDS)
ADAPTERS = ("adapter", "gguf-adapter")
"""The adapter alone: nothing of it is rounded, and it goes on the student as it came."""

GGUF_TYPES = ("q8_0", "f16", "f32")
"""How GGUF weights are stored where nobody says how: the first of these that keeps what was learned."""
MLX_TYPES = (8, 16, 32)
"""Likewise the bits of MLX weights."""
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
    larger: tuple[str, ...] = ()
    """Variants to write in turn instead, where this one loses too much; none where the user named it."""

    @property
    def attempts(self) -> Iterator[Target]:
        """This one, and what is written where it loses too much, the smallest first."""
        for n, variant in enumerate((self.variant, *self.larger)):
            yield replace(self, variant=variant, larger=self.larger[n:])

    def __str__(self) -> str:
        """The name of the export's folder and stage; merged weights are always in "hf"."""
        return f"{self.format}-{self.variant}" if self.variant and self.format not in CORE else self.format


def mlx_variant(bits: int, group_size: int) -> str:
    """The name of a way to store MLX weights: 4bit, 4bit-g32, bf16."""
    name = MLX_FULL.get(bits, f"{bits}bit")
    return name if bits in MLX_FULL or group_size == MLX_GROUP_SIZE else f"{name}-g{group_size}"


def keeps_more(target: Target) -> str:
    """What to type where a format lost part of the training; nothing for one that loses none."""
    if target.format == "hf":
        return "Use --dtype float32 or --format adapter."
    if target.format == "gguf":
        return "Use a larger --quant, or --format gguf-adapter."
    if target.format != "mlx":
        return ""
    bits = next(b for b in MLX_BITS if target.variant.startswith(mlx_variant(b, MLX_GROUP_SIZE)))
    more = [str(b) for b in (8, *MLX_FULL) if b > bits]
    return f"Use --bits {' or '.join(more)}, or --format adapter." if more else "Use --format adapter."
