"""A trained GGUF student written back: its own file, in which only the weights that the adapter changed are new.

A changed weight is dequantised, added to in float32 and quantised by ggml to its own type again. Everything else, each
key of the metadata and each other tensor, is the file's own bytes.
"""

from __future__ import annotations

import ctypes
import shutil
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pudistill_cli.errors import ExportError
from pudistill_cli.models.peft_adapter import LowRank, read_adapter
from pudistill_llamacpp.gguf_student.config import architecture_of, config_of
from pudistill_llamacpp.gguf_student.header import FileTensor, read_header
from pudistill_llamacpp.gguf_student.tensors import Weights, weights_of
from pudistill_llamacpp.native.library import library
from pudistill_llamacpp.whole_file import whole_file


@dataclass(frozen=True, slots=True)
class Rewritten:
    """A finished file."""

    path: Path
    nbytes: int
    types: Mapping[str, int]
    """Number of tensors by type: as in the student's file."""
    changed: int
    """Tensors that the adapter changed."""
    relative_error: float
    """Norm of what quantising again lost over the norm of the adapter's addition, over these tensors."""


def export_like(student: Path, adapter: Path, out: Path) -> Rewritten:
    """Write the GGUF file `student` with a PEFT adapter merged to the file `out`, which appears whole or not at all.

    Raises:
        ExportError: the adapter does not fit, a type needs an importance matrix, or the file cannot be written.
        DataError: the student's file cannot be read.
    """
    header = read_header(student)
    config = config_of(header)
    weights = weights_of(header, architecture_of(header), config)
    additions = _placed(weights, read_adapter(adapter), adapter)
    lost = added = 0.0
    with whole_file(out, student.stat().st_size, advice="export gguf-adapter") as temporary:
        shutil.copyfile(student, temporary)
        with temporary.open("rb+") as file:
            for name, addition in additions.items():
                stored, squares = _changed(weights, name, addition)
                file.seek(weights.sources[name].tensor.offset)
                file.write(stored.tobytes())
                lost, added = lost + squares[0], added + squares[1]
    types = Counter(tensor.type_name for tensor in header.tensors.values())
    return Rewritten(out, out.stat().st_size, types, len(additions), (lost / added) ** 0.5 if added else 0.0)


def requantising_problem(student: Path) -> str | None:
    """Why an adapter cannot be merged into this file, in one line with what to do; DataError if it cannot be read."""
    header = read_header(student)
    for tensor in header.tensors.values():
        if tensor.name.startswith("blk.") and len(tensor.shape) > 1 and _needs_importance(tensor.type):
            return (
                f"{student.name} holds {tensor.type_name} tensors, which ggml only writes with an importance matrix; "
                "export gguf-adapter instead, or name the 16-bit checkpoint in student.original."
            )
    return None


def _placed(weights: Weights, adapter: Mapping[str, LowRank], folder: Path) -> dict[str, LowRank]:
    """The additions by transformers' name of their weight; every one must have its place."""
    placed: dict[str, LowRank] = {}
    for module, addition in adapter.items():
        name = f"{module}.weight"
        if name not in weights.sources or weights.sources[name].tensor.shape != addition.shape:
            raise ExportError(
                f"The adapter {folder} changes {module} by a matrix of shape {addition.shape}, which does not fit "
                f"{weights.path.name}.",
                "Merge an adapter only into the student that it was trained on.",
            )
        if addition.left.any() and addition.right.any():
            placed[name] = addition
    return placed


def _changed(weights: Weights, name: str, addition: LowRank) -> tuple[NDArray[Any], tuple[float, float]]:
    """The bytes of weight + addition, and the squared norms (of what rounding lost, of the addition)."""
    tensor = weights.sources[name].tensor
    change = weights.architecture.converted(name, addition.rows(0, tensor.shape[0]), weights.hyper)
    merged = weights.values(name) + change
    stored = quantised(merged, tensor)
    rounded = weights.dequantised(stored, name)
    return stored, (_squares(rounded - merged), _squares(change))


def quantised(values: NDArray[np.float32], tensor: FileTensor) -> NDArray[np.uint8]:
    """(rows, width) float32 -> (rows, row_bytes) in the tensor's own type, by ggml.

    Raises:
        ExportError: the type needs an importance matrix.
    """
    values = np.ascontiguousarray(values, np.float32)
    if tensor.type_name == "F32":
        return values.view(np.uint8)
    if _needs_importance(tensor.type):
        raise ExportError(
            f"{tensor.name} is of type {tensor.type_name}, which ggml only writes with an importance matrix.",
            "Export gguf-adapter instead, or name the 16-bit checkpoint in student.original.",
        )
    stored = np.empty((values.shape[0], tensor.row_bytes), np.uint8)
    rows, width = values.shape
    written = _ggml("ggml_quantize_chunk", ctypes.c_size_t)(
        ctypes.c_int(tensor.type),
        ctypes.c_void_p(values.ctypes.data),
        ctypes.c_void_p(stored.ctypes.data),
        ctypes.c_int64(0),
        ctypes.c_int64(rows),
        ctypes.c_int64(width),
        ctypes.c_void_p(None),
    )
    assert written == stored.nbytes, f"{tensor.name}: {written} bytes of {stored.nbytes}"
    return stored


def _needs_importance(type: int) -> bool:
    return bool(_ggml("ggml_quantize_requires_imatrix", ctypes.c_bool)(ctypes.c_int(type)))


def _ggml(name: str, result: type) -> Any:
    """A function of ggml, through the library that is linked with it: llama-cpp-python does not wrap these."""
    function = getattr(library()._lib, name)
    function.restype = result
    return function


def _squares(values: NDArray[Any]) -> float:
    flat = values.reshape(-1).astype(np.float64)
    return float(flat @ flat)
