"""The safetensors format without a framework: tensors read and written block by block, bf16 as its bits.

Format: 8 bytes of little-endian header length, a JSON header, then the tensors' bytes, little-endian and in C order.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from pudistill_cli.errors import DataError
from pudistill_cli.foreign_errors import as_data_error
from pudistill_cli.models.checkpoint_files import INDEX
from pudistill_cli.models.reading import COPY_AGAIN
from pudistill_cli.models.safetensors_header import METADATA, safetensors_header

Bits: TypeAlias = NDArray[Any]
"""Values as they are stored; bf16 as uint16."""

STORED = {
    "F64": "<f8",
    "F32": "<f4",
    "F16": "<f2",
    "BF16": "<u2",
    "I64": "<i8",
    "I32": "<i4",
    "I16": "<i2",
    "I8": "i1",
    "U64": "<u8",
    "U32": "<u4",
    "U16": "<u2",
    "U8": "u1",
    "BOOL": "?",
}
"""NumPy's name of what a dtype is stored as."""
FLOATS = frozenset({"F64", "F32", "F16", "BF16"})
_COMPARED = 1 << 22
"""Entries that are compared at once."""


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """A tensor's name, dtype (a key of STORED) and shape."""

    name: str
    dtype: str
    shape: tuple[int, ...]

    @property
    def size(self) -> int:
        """Number of entries."""
        return prod(self.shape)

    @property
    def nbytes(self) -> int:
        """Bytes in a file."""
        return self.size * np.dtype(STORED[self.dtype]).itemsize


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """A tensor in a file; nothing is read before `read`."""

    spec: TensorSpec
    path: Path
    offset: int
    """Of its first byte, from the start of the file."""

    def read(self, start: int = 0, stop: int | None = None) -> Bits:
        """Entries [start, stop) of the flattened tensor: (stop - start,).

        Raises:
            DataError: the file was moved or cut short since its header was read.
        """
        stored = np.dtype(STORED[self.spec.dtype])
        count = (self.spec.size if stop is None else stop) - start
        with as_data_error(f"Cannot read {self.path}", COPY_AGAIN):
            values = np.fromfile(self.path, dtype=stored, count=count, offset=self.offset + start * stored.itemsize)
            if len(values) != count:
                raise ValueError("it was cut short since its header was read")
        return values


def stored_tensors(path: Path) -> list[StoredTensor]:
    """The tensors of a file in the order of their bytes.

    Raises:
        DataError: it is not whole, or holds a dtype that is not read (float8, say).
    """
    header = safetensors_header(path)
    start = 8 + int.from_bytes(_first_bytes(path, 8), "little")
    tensors: list[StoredTensor] = []
    for name, entry in header.items():
        if name == METADATA:
            continue
        if entry["dtype"] not in STORED:
            raise DataError(
                f"{path}: tensor {name} is of type {entry['dtype']}, which is not read.",
                "Use the 16-bit checkpoint that it was made from.",
            )
        spec = TensorSpec(name, entry["dtype"], tuple(entry["shape"]))
        tensors.append(StoredTensor(spec, path, start + entry["data_offsets"][0]))
    return sorted(tensors, key=lambda t: t.offset)


def write_tensors(path: Path, specs: Sequence[TensorSpec], blocks: Callable[[str], Iterable[Bits]]) -> None:
    """Write a file. `blocks(name)` gives a tensor's entries in order, in pieces of any size."""
    header: dict[str, Any] = {METADATA: {"format": "pt"}}
    end = 0
    # Wide types first: then every tensor is aligned, and the file can be mapped.
    specs = sorted(specs, key=lambda s: -np.dtype(STORED[s.dtype]).itemsize)
    for spec in specs:
        header[spec.name] = {"dtype": spec.dtype, "shape": spec.shape, "data_offsets": [end, end + spec.nbytes]}
        end += spec.nbytes
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for spec in specs:
            written = sum(file.write(np.ascontiguousarray(block).data) for block in blocks(spec.name))
            assert written == spec.nbytes, f"{spec.name}: {written} bytes of {spec.nbytes}"


def shards_of(specs: Sequence[TensorSpec], limit: int) -> list[list[TensorSpec]]:
    """The tensors in files of at most `limit` bytes, in their order; a larger tensor has a file of its own."""
    shards: list[list[TensorSpec]] = [[]]
    size = 0
    for spec in specs:
        if shards[-1] and size + spec.nbytes > limit:
            shards.append([])
            size = 0
        shards[-1].append(spec)
        size += spec.nbytes
    return shards


def write_shards(folder: Path, shards: Sequence[Sequence[TensorSpec]], blocks: Callable[[str], Iterable[Bits]]) -> None:
    """Write a checkpoint's weights under the names that transformers gives them, several files with their index."""
    if len(shards) == 1:
        write_tensors(folder / "model.safetensors", shards[0], blocks)
        return
    names = [f"model-{i:05d}-of-{len(shards):05d}.safetensors" for i in range(1, len(shards) + 1)]
    for name, specs in zip(names, shards, strict=True):
        write_tensors(folder / name, specs, blocks)
    index = {
        "metadata": {"total_size": sum(spec.nbytes for specs in shards for spec in specs)},
        "weight_map": {spec.name: name for name, specs in zip(names, shards, strict=True) for spec in specs},
    }
    (folder / INDEX).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")


def to_float32(bits: Bits, dtype: str) -> NDArray[np.float32]:
    """The values of stored floats; exact but for F64, which is rounded."""
    if dtype == "BF16":
        return (bits.astype(np.uint32) << 16).view(np.float32)
    return bits.astype(np.float32)


def from_float32(values: NDArray[np.float32], dtype: str) -> Bits:
    """What is stored of values: F32 as they are, F16 and BF16 rounded to nearest, ties to even.

    Values beyond the largest become infinite, as IEEE 754 says.
    """
    if dtype == "F16":
        with np.errstate(over="ignore"):
            return values.astype(STORED["F16"])
    if dtype == "BF16":
        bits = values.view(np.uint32)
        rounded = (bits + (0x7FFF + ((bits >> 16) & 1))) >> 16
        quiet = (bits >> 16) | 0x40  # adding could carry a NaN's bits into infinity
        return np.where(np.isnan(values), quiet, rounded).astype(STORED["BF16"])
    return values.astype(STORED["F32"])


def equal_values(one: StoredTensor, other: StoredTensor) -> bool:
    """Whether two tensors of floats hold the same numbers, in whatever types they are stored."""

    def values(tensor: StoredTensor, start: int, stop: int) -> NDArray[np.float32]:
        return to_float32(tensor.read(start, stop), tensor.spec.dtype)

    return one.spec.shape == other.spec.shape and all(
        np.array_equal(values(one, start, stop), values(other, start, stop))
        for start, stop in blocks_of(one.spec.size, _COMPARED)
    )


def blocks_of(size: int, step: int) -> Iterator[tuple[int, int]]:
    """[start, stop) pairs that cover `size` entries."""
    return ((start, min(start + step, size)) for start in range(0, size, step))


def _first_bytes(path: Path, n: int) -> bytes:
    with path.open("rb") as file:
        return file.read(n)
