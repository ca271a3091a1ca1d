"""The recipe's `export`: what a run leaves behind, and the formats that this means for a student."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, field_validator

from pudistill_cli.backend_api.export_formats import (
    FORMATS,
    GGUF_TYPES,
    MLX_BITS,
    MLX_GROUP_SIZE,
    MLX_GROUP_SIZES,
    MLX_TYPES,
    Target,
    mlx_variant,
)
from pudistill_cli.config.fields import Auto, Count, Names, Section, as_tuple
from pudistill_cli.config.stages import Effect, Stage
from pudistill_cli.did_you_mean import did_you_mean

AUTO = ("auto",)
"""Formats: what the student came as. `quants` and `bits`: the smallest that keeps what was learned."""


class ExportSettings(Section):
    """What the run leaves behind."""

    formats: Annotated[tuple[str, ...], BeforeValidator(as_tuple), Stage.EXPORT] = AUTO
    """auto: hf and adapter; for a GGUF student gguf and gguf-adapter, and with `student.original` all four.

    hf: merged weights; adapter: PEFT's format; gguf: merged weights for llama.cpp, Ollama and LM Studio, one file for
    each of `quants`; gguf-adapter: the adapter alone for llama.cpp; mlx: merged weights for mlx-lm and LM Studio on a
    Mac, one folder for each of `bits`.
    """
    dtype: Annotated[Literal["float32", "bfloat16"], Stage.EXPORT] = "float32"
    """Of the merged weights. bfloat16 is half the size and loses most of a small update."""
    quants: Annotated[Names, Stage.EXPORT] = AUTO
    """How GGUF weights are stored: f32, f16, bf16, q8_0, q6_k, q5_k_m, q4_k_m, q4_0 and what else llama.cpp has.

    auto: q8_0, or where that loses a tenth of what training changed, the smaller of f16 and f32 that does not. A type
    that is named is written whatever it loses, which the run says.
    """
    bits: Annotated[tuple[Count | Auto, ...], Field(min_length=1), BeforeValidator(as_tuple), Stage.EXPORT] = AUTO
    """How MLX weights are stored: 3, 4, 5, 6 or 8 bits, 16 (bfloat16) or 32 (float32); auto: 8, 16 or 32, likewise."""
    group_size: Annotated[Count, Stage.EXPORT] = MLX_GROUP_SIZE
    """So many weights of a row share a scale in MLX's 3 to 8 bits: 32, 64 or 128."""
    llama_cpp: Annotated[str | None, Effect.NONE] = None
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
    def _known_bits(cls, value: tuple[int | Auto, ...]) -> tuple[int | Auto, ...]:
        for bits in value if value != AUTO else ():
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


def formats_of(export: ExportSettings, auto: tuple[str, ...]) -> list[Target]:
    """The recipe's exports, one for each way to store it; `auto` is what a student leaves as if nothing else is said.

    Where that names an adapter for llama.cpp, it lies beside every merged GGUF file.
    """
    targets = [t for name in (auto if export.formats == AUTO else export.formats) for t in _stored(export, name)]
    beside = [Target("gguf-adapter")] if "gguf-adapter" in auto and any(t.format == "gguf" for t in targets) else []
    return list(dict.fromkeys([*targets, *beside]))


def _stored(export: ExportSettings, format: str) -> list[Target]:
    """A format in each of its variants; in one that may grow where the user named none."""
    if format == "hf":
        return [Target(format, export.dtype)]
    if format == "gguf":
        return _smallest(format, GGUF_TYPES) if export.quants == AUTO else [Target(format, q) for q in export.quants]
    if format == "mlx":
        bits = MLX_TYPES if export.bits == AUTO else [b for b in export.bits if b != "auto"]
        variants = tuple(mlx_variant(b, export.group_size) for b in bits)
        return _smallest(format, variants) if export.bits == AUTO else [Target(format, v) for v in variants]
    return [Target(format)]


def _smallest(format: str, variants: tuple[str, ...]) -> list[Target]:
    return [Target(format, variants[0], variants[1:])]
