"""The recipe's `export`: what a run leaves behind, and the formats that this means for a student."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, field_validator

from pudistill_cli.backend_api.export_formats import (
    CORE,
    FORMATS,
    MLX_BITS,
    MLX_GROUP_SIZE,
    MLX_GROUP_SIZES,
    Target,
    mlx_variant,
)
from pudistill_cli.config.fields import Count, Names, Section, as_tuple
from pudistill_cli.config.stages import Stage
from pudistill_cli.did_you_mean import did_you_mean

AUTO = ("auto",)
"""What a student came as: hf and adapter, or for a GGUF file gguf and gguf-adapter."""


class ExportSettings(Section):
    """What the run leaves behind."""

    formats: Annotated[tuple[str, ...], BeforeValidator(as_tuple), Stage.EXPORT] = AUTO
    """auto: hf and adapter, or for a student that is a GGUF file gguf and gguf-adapter.

    hf: merged weights; adapter: PEFT's format; gguf: merged weights for llama.cpp, Ollama and LM Studio, one file for
    each of `quants`; gguf-adapter: the adapter alone for llama.cpp; mlx: merged weights for mlx-lm and LM Studio on a
    Mac, one folder for each of `bits`.
    """
    dtype: Annotated[Literal["float32", "bfloat16"], Stage.EXPORT] = "float32"
    """Of the merged weights. bfloat16 is half the size and loses most of a small update."""
    quants: Annotated[Names, Stage.EXPORT] = ("q8_0",)
    """How GGUF weights are stored: f32, f16, bf16, q8_0, q6_k, q5_k_m, q4_k_m, q4_0 and what else llama.cpp has."""
    bits: Annotated[tuple[Count, ...], Field(min_length=1), BeforeValidator(as_tuple), Stage.EXPORT] = (8,)
    """How MLX weights are stored: 3, 4, 5, 6 or 8 bits, 16 (bfloat16) or 32 (float32)."""
    group_size: Annotated[Count, Stage.EXPORT] = MLX_GROUP_SIZE
    """So many weights of a row share a scale in MLX's 3 to 8 bits: 32, 64 or 128."""
    llama_cpp: Annotated[str | None, Stage.EXPORT] = None
    """A checkout of llama.cpp, whose converter is used for architectures that ours does not write."""

    @field_validator("formats")
    @classmethod
    def _known_formats(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for name in value if value != AUTO else ():
            if name not in FORMATS:
                raise ValueError(f"no format {name!r}{did_you_mean(name, FORMATS)}: there are {', '.join(FORMATS)}")
        return value

    @field_validator("quants")
    @classmethod
    def _lower_case(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(name.lower() for name in value)

    @field_validator("bits")
    @classmethod
    def _known_bits(cls, value: tuple[int, ...]) -> tuple[int, ...]:
        for bits in value:
            if bits not in MLX_BITS:
                raise ValueError(f"MLX weights have {_either(MLX_BITS)} bits, not {bits}")
        return value

    @field_validator("group_size")
    @classmethod
    def _known_group_size(cls, value: int) -> int:
        if value not in MLX_GROUP_SIZES:
            raise ValueError(f"a group is of {_either(MLX_GROUP_SIZES)} weights, not {value}")
        return value


def _either(numbers: tuple[int, ...]) -> str:
    *most, last = map(str, numbers)
    return f"{', '.join(most)} or {last}"


def formats_of(export: ExportSettings, gguf_student: bool) -> list[Target]:
    """The recipe's exports, one for each quantisation.

    A student that is a GGUF file goes back into its own tensor types, and its adapter is always written beside it:
    quantising anew may lose what training changed.
    """
    variants: dict[str, tuple[str, ...]] = {
        "hf": (export.dtype,),
        "gguf": ("",) if gguf_student else export.quants,
        "mlx": tuple(mlx_variant(bits, export.group_size) for bits in export.bits),
    }
    names = export.formats if export.formats != AUTO else ("gguf",) if gguf_student else CORE
    targets = [Target(f, v) for f in names for v in variants.get(f, ("",))]
    beside = [Target("gguf-adapter")] if gguf_student and "gguf" in names else []
    return list(dict.fromkeys([*targets, *beside]))
