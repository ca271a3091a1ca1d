"""What a GGUF file holds, read without its tensors: scalar metadata, and each tensor's name, shape, type and place.

Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md, versions 2 and 3, little-endian.
"""

from __future__ import annotations

import mmap
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from pudistill_cli.errors import DataError

Scalar: TypeAlias = int | float | bool | str

_MAGIC = b"GGUF"
_VERSIONS = (2, 3)
_STRING, _ARRAY = 8, 9
_FORMATS = {0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<?", 10: "<Q", 11: "<q", 12: "<d"}
_MOST = 1 << 20
"""Keys or tensors beyond which a count can only be damage."""


@dataclass(frozen=True, slots=True)
class FileTensor:
    """A tensor in the file."""

    name: str
    shape: tuple[int, ...]
    """In NumPy's order: rows first."""
    type: int
    """ggml's number."""
    offset: int
    """Of its first byte, from the start of the file."""
    nbytes: int

    @property
    def type_name(self) -> str:
        """ggml's name of the type."""
        from gguf import GGMLQuantizationType

        return GGMLQuantizationType(self.type).name

    @property
    def row_bytes(self) -> int:
        """Of one row: what is quantised together."""
        return self.nbytes // prod(self.shape[:-1])

    def read(self, path: Path, start: int = 0, stop: int | None = None) -> NDArray[np.uint8]:
        """(stop - start, row_bytes) of rows as they are stored; all but the last dimension count as rows."""
        rows = (prod(self.shape[:-1]) if stop is None else stop) - start
        size = self.row_bytes
        return np.fromfile(path, np.uint8, rows * size, offset=self.offset + start * size).reshape(rows, size)


@dataclass(frozen=True, slots=True)
class Header:
    """All of a file but the tensors' data."""

    path: Path
    metadata: Mapping[str, Scalar]
    """Without arrays."""
    arrays: frozenset[str]
    """Keys whose values are arrays: tokens and merges, mostly."""
    tensors: Mapping[str, FileTensor]
    entries: Mapping[str, bytes]
    """Each key of the metadata with its type and value, arrays too, as the file has it."""
    alignment: int
    """Of each tensor's first byte."""
    tensors_start: int
    """Where the first tensor begins, in bytes from the start of the file."""

    @property
    def architecture(self) -> str:
        """llama.cpp's name of it, "" if the file does not say."""
        return str(self.metadata.get("general.architecture", ""))


def read_header(path: Path) -> Header:
    """Read and check a file.

    Raises:
        DataError: it is no whole GGUF file of one part.
    """
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            header = _Reader(data, path).header()
    except (OSError, ValueError, struct.error, IndexError, UnicodeDecodeError) as error:
        raise DataError(f"{path} is no whole GGUF file: {error}.", "Download or copy it again.") from error
    if int(header.metadata.get("split.count", 1)) > 1:
        raise DataError(
            f"{path} is one part of {header.metadata['split.count']}.",
            f"Join them first: llama-gguf-split --merge {path.name} whole.gguf",
        )
    return header


class _Reader:
    """A position in a file, and what is read there."""

    def __init__(self, data: mmap.mmap, path: Path) -> None:
        self._data = data
        self._at = 0
        self._path = path

    def header(self) -> Header:
        if self._data[:4] != _MAGIC:
            raise ValueError("it does not begin with GGUF")
        self._at = 4
        version = self._number("<I")
        if version not in _VERSIONS:
            raise ValueError(f"its version is {version}, not 2 or 3")
        count, keys = self._count("<Q"), self._count("<Q")
        metadata: dict[str, Scalar] = {}
        arrays: set[str] = set()
        entries: dict[str, bytes] = {}
        for _ in range(keys):
            first = self._at
            key = self._string()
            kind = self._number("<I")
            if kind == _ARRAY:
                self._skip_array()
                arrays.add(key)
            else:
                metadata[key] = self._value(kind)
            entries[key] = self._data[first : self._at]
        infos = [self._info() for _ in range(count)]
        alignment = int(metadata.get("general.alignment", 32))
        if alignment <= 0:
            raise ValueError(f"its alignment is {alignment}")
        start = -(-self._at // alignment) * alignment
        tensors = {i.name: i for i in map(self._placed(start), infos)}
        return Header(self._path, metadata, frozenset(arrays), tensors, entries, alignment, start)

    def _placed(self, start: int) -> Callable[[tuple[str, tuple[int, ...], int, int]], FileTensor]:
        from gguf import GGML_QUANT_SIZES, GGMLQuantizationType

        def place(info: tuple[str, tuple[int, ...], int, int]) -> FileTensor:
            name, shape, kind, offset = info
            block, size = GGML_QUANT_SIZES[GGMLQuantizationType(kind)]
            if not shape or shape[-1] % block or not prod(shape):
                raise ValueError(f"tensor {name} of shape {shape} cannot be of type {kind}")
            nbytes = prod(shape) // block * size
            if start + offset + nbytes > len(self._data):
                raise ValueError(f"tensor {name} ends beyond it; the copy or download was cut off")
            return FileTensor(name, shape, kind, start + offset, nbytes)

        return place

    def _info(self) -> tuple[str, tuple[int, ...], int, int]:
        """(name, shape, type, offset)"""
        name = self._string()
        shape = tuple(self._number("<Q") for _ in range(self._count("<I")))
        return name, shape[::-1], self._number("<I"), self._number("<Q")

    def _number(self, format: str) -> Any:
        (value,) = struct.unpack_from(format, self._data, self._at)
        self._at += struct.calcsize(format)
        return value

    def _count(self, format: str) -> int:
        value = self._number(format)
        if value > _MOST:
            raise ValueError(f"it claims {value} entries")
        return value

    def _string(self) -> str:
        length = self._number("<Q")
        if self._at + length > len(self._data):
            raise ValueError("a text ends beyond it")
        self._at += length
        return self._data[self._at - length : self._at].decode("utf-8")

    def _value(self, kind: int) -> Scalar:
        if kind == _STRING:
            return self._string()
        if kind not in _FORMATS:
            raise ValueError(f"a value is of the unknown type {kind}")
        return self._number(_FORMATS[kind])

    def _skip_array(self) -> None:
        kind = self._number("<I")
        count = self._number("<Q")
        if kind == _STRING:
            for _ in range(count):
                self._at += 8 + struct.unpack_from("<Q", self._data, self._at)[0]
        elif kind in _FORMATS:
            self._at += count * struct.calcsize(_FORMATS[kind])
        else:
            raise ValueError(f"an array is of the unknown type {kind}")
