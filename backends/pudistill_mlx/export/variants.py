"""How MLX weights are stored: a number of bits, and how many weights share a scale and a bias."""

from __future__ import annotations

from dataclasses import dataclass

from pudistill_cli.backend_api.export_formats import MLX_BITS, MLX_FULL, MLX_GROUP_SIZES, mlx_variant
from pudistill_cli.did_you_mean import did_you_mean
from pudistill_cli.errors import ExportError


@dataclass(frozen=True, slots=True)
class Variant:
    """One way to store weights."""

    bits: int
    """16 and 32 are bfloat16 and float32."""
    group_size: int
    """Of the quantised ones."""

    @property
    def dtype(self) -> str | None:
        """Of everything that is not quantised, as MLX and config.json call it; None leaves the checkpoint's own."""
        return {16: "bfloat16", 32: "float32"}.get(self.bits)

    @property
    def quantised(self) -> bool:
        """Whether weights are rounded to a few levels a group."""
        return self.bits not in MLX_FULL


_KNOWN = {mlx_variant(bits, size): Variant(bits, size) for bits in MLX_BITS for size in reversed(MLX_GROUP_SIZES)}


def variant_of(name: str) -> Variant:
    """The variant that the core calls so (4bit, 4bit-g32, bf16).

    Raises:
        ExportError: there is none.
    """
    if name not in _KNOWN:
        raise ExportError(
            f"MLX weights are not stored as {name!r}{did_you_mean(name, _KNOWN)}.",
            f"Use one of {', '.join(_KNOWN)}.",
        )
    return _KNOWN[name]
