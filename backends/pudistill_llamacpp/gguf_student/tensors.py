"""A GGUF file's tensors as transformers names and orders them, dequantised a few rows at a time."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pudistill_cli.errors import DataError
from pudistill_cli.models.safetensors_io import Bits, TensorSpec
from pudistill_llamacpp.convert.architectures.layout import Architecture, original_rows
from pudistill_llamacpp.convert.hyperparameters import Hyperparameters
from pudistill_llamacpp.gguf_file.header import FileTensor, Header
from pudistill_llamacpp.gguf_student.rope import FACTORS

_FLOATS = {0: "F32", 1: "F16", 30: "BF16"}
"""ggml's types that safetensors has too."""
_BLOCK = 1 << 24
"""Entries that are in memory at once, but for a matrix whose rows change places."""


@dataclass(frozen=True, slots=True)
class Source:
    """One tensor of the checkpoint, and where in the file it is."""

    name: str
    """transformers'."""
    tensor: FileTensor

    @property
    def spec(self) -> TensorSpec:
        """How it is stored in the checkpoint: floats as they are, what was quantised in float32."""
        return TensorSpec(self.name, _FLOATS.get(self.tensor.type, "F32"), self.tensor.shape)


@dataclass(frozen=True, slots=True)
class Weights:
    """All tensors of a file by transformers' names."""

    path: Path
    architecture: Architecture
    hyper: Hyperparameters
    sources: Mapping[str, Source]

    def blocks(self, name: str) -> Iterator[Bits]:
        """A tensor's entries as the checkpoint stores them, in pieces."""
        source = self.sources[name]
        rows = prod(source.tensor.shape[:-1])
        permuted = self.heads(name) is not None
        step = rows if permuted else max(1, _BLOCK // source.tensor.shape[-1])
        for start in range(0, rows, step):
            yield self._stored(source, start, min(start + step, rows))

    def values(self, name: str) -> NDArray[np.float32]:
        """A whole tensor in float32, in llama.cpp's order."""
        return self.dequantised(self.sources[name].tensor.read(self.path), name)

    def dequantised(self, rows: NDArray[np.uint8], name: str) -> NDArray[np.float32]:
        """As `values`, of the bytes of all rows."""
        tensor = self.sources[name].tensor
        return dequantised(rows, tensor).reshape(tensor.shape)

    def _stored(self, source: Source, start: int, stop: int) -> Bits:
        tensor = source.tensor
        raw = tensor.read(self.path, start, stop)
        heads = self.heads(source.name)
        if tensor.type in _FLOATS and not self._offset(source.name):
            stored: Bits = raw.view({"F32": "<f4", "F16": "<f2", "BF16": "<u2"}[_FLOATS[tensor.type]])
        else:
            stored = dequantised(raw, tensor) - np.float32(self._offset(source.name))
        return stored if heads is None else original_rows(stored.reshape(tensor.shape), heads)

    def heads(self, name: str) -> int | None:
        """Of a tensor whose rows llama.cpp has in another order."""
        module = name.rpartition(".")[0]
        permuted = self.architecture.permuted
        attribute = next((heads for suffix, heads in permuted.items() if module.endswith(suffix)), None)
        return None if attribute is None else int(getattr(self.hyper, attribute))

    def _offset(self, name: str) -> float:
        return self.architecture.norm_offset if name.endswith("norm.weight") else 0.0


def weights_of(header: Header, architecture: Architecture, config: Mapping[str, Any]) -> Weights:
    """Give every tensor of the file its place.

    Raises:
        DataError: one is missing, or has no place in the architecture.
    """
    modules = {new: old for old, new in architecture.modules(config)}
    sources: dict[str, Source] = {}
    for name, tensor in header.tensors.items():
        if name in FACTORS:
            continue
        new, _, part = name.rpartition(".")
        if new not in modules or part not in ("weight", "bias"):
            raise _damaged(header, f"the tensor {name} has no place in the architecture {architecture.name}")
        sources[f"{modules[new]}.{part}"] = Source(f"{modules[new]}.{part}", tensor)
    missing = [new for new, old in modules.items() if f"{old}.weight" not in sources]
    if missing:
        raise _damaged(header, f"the tensor {missing[0]}.weight is missing")
    weights = Weights(header.path, architecture, architecture.hyperparameters(config), sources)
    for name, source in sources.items():
        heads, shape = weights.heads(name), list(source.tensor.shape)
        if heads is not None and (len(shape) > 2 or shape[0] % (2 * heads)):
            raise _damaged(header, f"{source.tensor.name} of shape {shape} is not of {heads} heads")
    return weights


def dequantised(rows: NDArray[np.uint8], tensor: FileTensor) -> NDArray[np.float32]:
    """(n, row_bytes) as they are stored -> (n, width) float32."""
    from gguf import GGMLQuantizationType, quants

    kind = GGMLQuantizationType(tensor.type)
    if kind == GGMLQuantizationType.F32:
        return rows.view("<f4")
    try:
        return quants.dequantize(rows, kind)
    except NotImplementedError as error:
        raise DataError(
            f"{tensor.name} is of type {kind.name}, which the gguf package cannot read.",
            "Give a file of another quantisation, or the checkpoint that it was made from.",
        ) from error


def _damaged(header: Header, reason: str) -> DataError:
    return DataError(f"{header.path} cannot be the student: {reason}.", "Give the checkpoint it was made from instead.")
