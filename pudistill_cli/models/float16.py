"""Weights that float16 cannot hold, found before an export that stores them so."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from pudistill_cli.models.safetensors_io import FLOATS, StoredTensor, blocks_of, from_float32, to_float32

_BLOCK = 1 << 24
_MAGNITUDE = np.uint16(0x7FFF)
"""Of bfloat16's bits, all but the sign: they are in the order of the numbers."""


def beyond_float16(tensors: Iterable[StoredTensor]) -> str | None:
    """The first tensor with a number that would become infinite in float16; the weights are read for it."""
    return next((t.spec.name for t in tensors if t.spec.dtype in FLOATS - {"F16"} and _overflows(t)), None)


def _overflows(tensor: StoredTensor) -> bool:
    return any(
        bool(np.isinf(from_float32(np.float32(_largest(tensor, start, stop)).reshape(1), "F16")).any())
        for start, stop in blocks_of(tensor.spec.size, _BLOCK)
    )


def _largest(tensor: StoredTensor, start: int, stop: int) -> float:
    """The largest magnitude of finite numbers in a block."""
    bits = tensor.read(start, stop)
    if tensor.spec.dtype == "BF16":
        magnitudes = bits & _MAGNITUDE
        return float(to_float32(magnitudes[magnitudes < 0x7F80].max(initial=0).reshape(1), "BF16")[0])
    magnitudes = np.abs(bits)
    return float(magnitudes[np.isfinite(magnitudes)].max(initial=0))
