"""The importance matrix: how large the inputs of every weight column are on the run's own text.

As llama.cpp's own tool measures it (tools/imatrix): the mean square of the activations that a matrix is multiplied
with, read while the model computes.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pudistill_cli.errors import BackendError
from pudistill_cli.types import Tokens
from pudistill_llamacpp.native.context import Context, ContextSettings
from pudistill_llamacpp.native.model import Model

_F32 = 0
"""ggml's number."""
_BATCH = 256
"""Tokens at a time: the logits of all of them are in memory."""


class _Tensor(ctypes.Structure):
    """ggml_tensor of ggml.h, as far as it is read."""


_Tensor._fields_ = [
    ("type", ctypes.c_int),
    ("buffer", ctypes.c_void_p),
    ("ne", ctypes.c_int64 * 4),
    ("nb", ctypes.c_size_t * 4),
    ("op", ctypes.c_int),
    ("op_params", ctypes.c_int32 * 16),
    ("flags", ctypes.c_int32),
    ("src", ctypes.POINTER(_Tensor) * 10),
    ("view_src", ctypes.c_void_p),
    ("view_offs", ctypes.c_size_t),
    ("data", ctypes.c_void_p),
    ("name", ctypes.c_char * 64),
]


class _Collector:
    """Sums of squares by tensor name, while a model computes."""

    def __init__(self) -> None:
        self.sums: dict[str, NDArray[np.float64]] = {}
        self.rows: dict[str, int] = {}
        self.error: Exception | None = None
        """ctypes swallows what a callback raises."""

    def on_tensor(self, address: int, asks: bool) -> bool:
        """Ask for the products of the blocks' matrices; take the inputs of those that were computed."""
        try:
            tensor = _Tensor.from_address(address)
            if asks:
                return _is_product(tensor)
            name = tensor.src[0].contents.name.decode()
            rows = _rows(tensor.src[1].contents)
            squares = np.einsum("ij,ij->j", rows, rows, dtype=np.float64)
            self.sums[name] = self.sums.get(name, 0) + squares
            self.rows[name] = self.rows.get(name, 0) + len(rows)
        except Exception as error:  # noqa: BLE001 - raised again by whoever computes
            self.error = error
            return False
        return True


def importance_matrix(model: Path, texts: Sequence[Tokens], *, threads: int = 1) -> dict[str, NDArray[np.float32]]:
    """By tensor name, (columns,): the mean square of its inputs over all tokens of `texts`.

    Embeddings and head are left out, as upstream does: they are quantised better without.

    Raises:
        BackendError: llama.cpp fails, or the weights' inputs were not found (an unknown version of it).
        DataError: the file cannot be loaded.
    """
    longest = max(map(len, texts))
    batch = min(longest, _BATCH)
    collector = _Collector()
    opened = Model.open(model)
    try:
        settings = ContextSettings(n_ctx=longest, n_batch=batch, n_ubatch=batch, kv="f32", flash=False, threads=threads)
        context = Context(opened, settings, collector.on_tensor)
        try:
            for tokens in texts:
                context.clear()
                for start in range(0, len(tokens), batch):
                    part = tokens[start : start + batch]
                    context.decode(part, np.arange(start, start + len(part)), 0)
                    if collector.error is not None:
                        raise collector.error
        finally:
            context.close()
    finally:
        opened.close()
    if not collector.sums:
        raise BackendError(
            "No activations were found while llama.cpp computed: this version lays its tensors out differently.",
            "Install the llama-cpp-python that pudistill was tested with, or use a --quant of five bits or more.",
        )
    return {name: (total / collector.rows[name]).astype(np.float32) for name, total in collector.sums.items()}


def _is_product(tensor: _Tensor) -> bool:
    """Whether it is a block's matrix times float32 activations, told by names and shapes: versions renumber `op`."""
    weight, inputs = tensor.src[0], tensor.src[1]
    if not (weight and inputs) or tensor.src[2]:
        return False
    w, x = weight.contents, inputs.contents
    return (
        w.name.startswith(b"blk.")
        and w.name.endswith(b".weight")
        and x.type == _F32
        and x.ne[0] == w.ne[0]
        and tensor.ne[0] == w.ne[1]
        and list(tensor.ne)[1:] == list(x.ne)[1:]
    )


def _rows(tensor: _Tensor) -> NDArray[np.float32]:
    """(rows, columns): a float32 tensor in the machine's own memory."""
    shape, strides = tuple(tensor.ne)[::-1], tuple(tensor.nb)[::-1]
    span = sum((n - 1) * step for n, step in zip(shape, strides, strict=True)) + 4
    memory: Any = (ctypes.c_char * span).from_address(tensor.data)
    return np.ndarray(shape, np.float32, memory, strides=strides).reshape(-1, shape[-1])
