"""A GGUF file quantised by llama.cpp itself, straight from float32, and what was really written of each tensor."""

from __future__ import annotations

import ctypes
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from pudistill_cli.errors import ExportError
from pudistill_llamacpp.native.library import captured, library
from pudistill_llamacpp.quantisations import Width, block_of, most_bytes, quant_problem, quantisations
from pudistill_llamacpp.whole_file import cannot_write, whole_file

if TYPE_CHECKING:
    from gguf import GGUFReader

ImportanceMatrix: TypeAlias = Mapping[str, NDArray[np.float32]]
"""By tensor name, (columns,): the mean square of what each column is multiplied with (imatrix.py)."""


@dataclass(frozen=True, slots=True)
class Quantised:
    """A quantised file, read back."""

    path: Path
    quant: str
    nbytes: int
    types: Mapping[str, Mapping[str, int]]
    """How many tensors of each kind (attn_q, ffn_down, ...) have which type."""
    fallbacks: int
    """Tensors in another type than meant, because their rows are no multiple of its block."""

    def report(self) -> dict[str, object]:
        """For the export's card."""
        return {"quant": self.quant, "bytes": self.nbytes, "types": dict(self.types), "fallbacks": self.fallbacks}


@dataclass(slots=True)
class _Parameters:
    """llama.cpp's struct, and the arrays that it points to."""

    struct: Any
    kept: list[object] = field(default_factory=list[object])


def quantise(
    source: Path,
    out: Path,
    quant: str,
    *,
    threads: int = 1,
    importance: ImportanceMatrix | None = None,
) -> Quantised:
    """Quantise `source`, a GGUF file in float32 or 16 bits, to `out`, which appears whole or not at all.

    Raises:
        ExportError: no such quantisation, too little room, a source that is damaged or quantised already, a
            quantisation that needs an importance matrix, or a file that cannot be written.
    """
    problem = quant_problem(quant)
    if problem is not None:
        raise ExportError(problem, "Name one of these with --quant.")
    needed = most_bytes(_widths(source), quant)
    parameters = _parameters(quant, threads, importance)
    with whole_file(out, needed, takes=f"The {quant} file takes up to", advice="choose a smaller --quant") as temporary:
        with captured() as log:
            failed = library().llama_model_quantize(str(source).encode(), str(temporary).encode(), parameters.struct)
        if failed:
            raise _failure(source, out, quant, log.errors)
        written = read_types(temporary, quant)
    return replace(written, path=out)


def dequantise(source: Path, out: Path, quant: str) -> None:
    """Copy any GGUF file, its matrices in `quant` (f32, f16, bf16, q8_0), to `out`, which appears whole or not at all.

    Metadata and vectors stay; rows that are no multiple of 32 are in f16 where q8_0 is asked for.

    Raises:
        ExportError: too little room, a damaged source, or a file that cannot be written.
    """
    parameters = _parameters(quant, 1, None)
    parameters.struct.allow_requantize = True
    with whole_file(out, most_bytes(_widths(source), quant), takes=f"A copy in {quant} takes up to") as temporary:
        with captured() as log:
            failed = library().llama_model_quantize(str(source).encode(), str(temporary).encode(), parameters.struct)
        if failed:
            raise _failure(source, out, quant, log.errors)


def read_types(path: Path, quant: str) -> Quantised:
    """What a file holds.

    Raises:
        ExportError: it is no GGUF file, or not whole.
    """
    types: dict[str, Counter[str]] = {}
    fallbacks = 0
    block = block_of(quant)
    for tensor in _reader(path).tensors:
        kind = re.sub(r"^blk\.\d+\.|\.weight$", "", tensor.name)
        types.setdefault(kind, Counter())[tensor.tensor_type.name] += 1
        matrix = len(tensor.shape) > 1 and tensor.tensor_type.name != "F32"
        fallbacks += bool(matrix and int(tensor.shape[0]) % block)
    return Quantised(path, quant, path.stat().st_size, {k: dict(v) for k, v in types.items()}, fallbacks)


def _widths(path: Path) -> list[Width]:
    return [Width(t.name, int(t.shape[0]), int(t.n_elements)) for t in _reader(path).tensors]


def _reader(path: Path) -> GGUFReader:
    """The `gguf` package's reader, which maps every tensor and so finds a file that was cut short."""
    from gguf import GGUFReader

    try:
        return GGUFReader(path)
    except (OSError, ValueError, KeyError, IndexError) as error:
        raise ExportError(
            f"{path} is no whole GGUF file: {error}.", "It may be incomplete: write or fetch it again."
        ) from error


def _parameters(quant: str, threads: int, importance: ImportanceMatrix | None) -> _Parameters:
    lib = library()
    struct = lib.llama_model_quantize_default_params()
    struct.ftype, struct.nthread = quantisations()[quant], threads
    parameters = _Parameters(struct)
    if importance is not None:
        arrays = {name: np.ascontiguousarray(values, np.float32) for name, values in importance.items()}
        entries = (lib.llama_model_imatrix_data * (len(arrays) + 1))()  # ended by one without a name
        for entry, (name, values) in zip(entries, arrays.items(), strict=False):
            entry.name, entry.size = name.encode(), values.size
            entry.data = values.ctypes.data_as(ctypes.POINTER(ctypes.c_float))
        struct.imatrix = entries
        parameters.kept += [entries, arrays]
    return parameters


def _failure(source: Path, out: Path, quant: str, errors: list[str]) -> ExportError:
    """What llama.cpp's last words mean for the user."""
    reason = errors[-1].rpartition("failed to quantize: ")[2].strip() if errors else "no reason given"
    if "imatrix" in reason or "importance matrix" in reason:
        return ExportError(
            f"{quant} needs an importance matrix, and there is no text to measure one on.",
            "Use a larger --quant: q4_k_m needs none.",
        )
    if "requantizing" in reason:
        return ExportError(
            f"{source} is quantised already, and quantising again loses more.", "Quantise from the float32 file."
        )
    if "iostream" in reason or "ios_base" in reason or "basic_ios" in reason:
        return cannot_write(out, "the disk is full, or the folder cannot be written")
    return ExportError(
        f"llama.cpp cannot quantise {source} to {quant}: {reason}.", "Choose another --quant, or report this."
    )
