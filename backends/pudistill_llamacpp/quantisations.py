"""llama.cpp's quantisations: their names, how large a file becomes, which ones want an importance matrix."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import TYPE_CHECKING, NamedTuple

from pudistill_cli.did_you_mean import did_you_mean
from pudistill_llamacpp.native.library import library

if TYPE_CHECKING:
    from gguf import GGMLQuantizationType

_PREFIX = re.compile("LLAMA_FTYPE_(?:MOSTLY|ALL)_")
_NOT_OFFERED = ("nvfp4", "mxfp4_moe")
"""The library names these types but quantises no dense model to them."""


class Width(NamedTuple):
    """What decides how a tensor can be stored."""

    name: str
    columns: int
    entries: int


def quantisations() -> dict[str, int]:
    """llama.cpp's quantisations by name (q8_0, q4_k_m, ...), with its numbers of them."""
    lib = library()
    numbers = {_PREFIX.sub("", n).lower(): int(getattr(lib, n)) for n in dir(lib) if _PREFIX.match(n)}
    return {name: number for name, number in numbers.items() if name not in _NOT_OFFERED and _type_of(name) is not None}


def quant_problem(quant: str) -> str | None:
    """Why there is no such quantisation, with the names that there are."""
    known = quantisations()
    if quant in known:
        return None
    return f"llama.cpp has no quantisation {quant!r}{did_you_mean(quant, known)}; it has {', '.join(known)}."


def wants_importance(quant: str) -> bool:
    """Whether it has so few bits (under about five a weight) that an importance matrix pays; some demand one."""
    return re.match(r"(iq|q[1-4])", quant) is not None


def most_bytes(tensors: Iterable[Width], quant: str) -> int:
    """An upper bound of the file's tensors: mixtures put up to 6.6 bits into some, and 8.5 into embeddings and head."""
    return sum(int(t.entries * _most_bits(t, quant) / 8) for t in tensors)


def _most_bits(tensor: Width, quant: str) -> float:
    if tensor.columns == tensor.entries or quant == "f32":
        return 32
    if quant in ("f16", "bf16") or tensor.columns % 32:
        return 16
    whole = (
        quant == "q8_0" or tensor.columns % block_of(quant) or re.search("embd|embed|output.weight|head", tensor.name)
    )
    return 8.5 if whole else 6.5625


def block_of(quant: str) -> int:
    """Weights that are quantised together in the type that most tensors of a quantisation get."""
    from gguf import GGML_QUANT_SIZES

    type_ = _type_of(quant)
    return GGML_QUANT_SIZES[type_][0] if type_ is not None else 1


def _type_of(quant: str) -> GGMLQuantizationType | None:
    """That type (Q4_K of q4_k_m), or for IQ mixtures one of the same block; None if the `gguf` package lacks it."""
    from gguf import GGML_QUANT_SIZES

    name = quant.upper()
    own = [t for t in GGML_QUANT_SIZES if name.startswith(t.name)]
    related = [t for t in GGML_QUANT_SIZES if quant.startswith("iq") and t.name.startswith(name[:3])]
    return next(iter((*own, *related)), None)
