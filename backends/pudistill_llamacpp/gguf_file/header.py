"""What a GGUF file holds, read without its tensors: scalar metadata, and each tensor's name, shape, type and place.

Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md, versions 2 and 3, little-endian.
"""

from __future__ import annotations

import mmap
import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from pudistill_cli.errors import DataError
from pudistill_cli.foreign_errors import as_data_error
from pudistill_cli.models.reading import check_regular

Scalar: TypeAlias = int | float | bool | str

_MAGIC = b"GGUF"
_VERSIONS = (2, 3)
_STRING, _ARRAY = 8, 9
_FORMATS = {0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<?", 10: "<Q", 11: "<q", 12: "<d"}
_MOST = 1 << 18
"""Keys or tensors beyond which a count can only be damage."""
_MOST_TEXTS = 1 << 22
"""Of a list: tokens and merges."""
_LONGEST_TEXT = 16 << 20
_LONGEST_KEY = 1024
_LONGEST_TENSOR_NAME = 64
_MOST_DIMENSIONS = 4
"""As in ggml."""
_ALIGNMENTS = tuple(1 << n for n in range(3, 17))
_SMALLEST = 24
_COPY_AGAIN = "Download or copy it again."


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
        with as_data_error(f"Cannot read {path}", _COPY_AGAIN):
            return np.fromfile(path, np.uint8, rows * size, offset=self.offset + start * size).reshape(rows, size)


@dataclass(frozen=True, slots=True)
class Array:
    """A key's list of values, which stays in the file."""

    kind: int
    """GGUF's number of its values' type."""
    count: int
    texts: tuple[str, ...] = ()
    """Of a list of texts."""
    place: int = 0
    """Of the first value, from the start of the file."""

    def numbers(self, path: Path) -> NDArray[Any]:
        """The values of a list of numbers."""
        with as_data_error(f"Cannot read {path}", _COPY_AGAIN):
            return np.fromfile(path, np.dtype(_FORMATS[self.kind]), self.count, offset=self.place)


@dataclass(frozen=True, slots=True)
class Header:
    """All of a file but the tensors' data."""

    path: Path
    metadata: Mapping[str, Scalar]
    """Without arrays."""
    arrays: Mapping[str, Array]
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

    def whole(self, key: str, default: int = 0) -> int:
        """A whole number of the metadata; the default where it is not there, or none."""
        value = self.metadata.get(key)
        return value if type(value) is int else default


def read_header(path: Path) -> Header:
    """Read and check a file.

    Raises:
        DataError: it is no whole GGUF file of one part.
    """
    if check_regular(path, _COPY_AGAIN) < _SMALLEST:
        raise DataError(f"{path} is no whole GGUF file: it has not even a header.", _COPY_AGAIN)
    with (
        as_data_error(f"{path} is no whole GGUF file", _COPY_AGAIN),
        path.open("rb") as file,
        mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data,
    ):
        header = _Reader(data, path).header()
    parts = header.metadata.get("split.count", 1)
    if parts not in (0, 1):
        raise DataError(
            f"{path} is one part of {parts}.",
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
        arrays: dict[str, Array] = {}
        entries: dict[str, bytes] = {}
        for _ in range(keys):
            first = self._at
            key = self._string()
            if not key or len(key) > _LONGEST_KEY or key in entries:
                raise ValueError(
                    f"it has the key {key[:40]!r} twice" if key in entries else "one of its keys has no name"
                )
            kind = self._number("<I")
            if kind == _ARRAY:
                arrays[key] = self._array(key)
            else:
                metadata[key] = self._value(kind)
            entries[key] = self._data[first : self._at]
        infos = [self._info() for _ in range(count)]
        alignment = metadata.get("general.alignment", 32)
        if type(alignment) is not int or alignment not in _ALIGNMENTS:
            raise ValueError(
                f"its alignment is {str(alignment)[:40]}, which is none of {', '.join(map(str, _ALIGNMENTS))}"
            )
        start = -(-self._at // alignment) * alignment
        placed = [place(info) for place in (self._placed(start, alignment),) for info in infos]
        tensors = {tensor.name: tensor for tensor in placed}
        if len(tensors) != len(placed):
            raise ValueError("it has two tensors of one name")
        _check_places(placed, start, alignment)
        return Header(self._path, metadata, arrays, tensors, entries, alignment, start)

    def _placed(self, start: int, alignment: int) -> Callable[[tuple[str, tuple[int, ...], int, int]], FileTensor]:
        from gguf import GGML_QUANT_SIZES, GGMLQuantizationType

        def place(info: tuple[str, tuple[int, ...], int, int]) -> FileTensor:
            name, shape, kind, offset = info
            if kind not in GGML_QUANT_SIZES:
                raise ValueError(f"tensor {name} is of the unknown type {kind}")
            block, size = GGML_QUANT_SIZES[GGMLQuantizationType(kind)]
            if not shape or shape[-1] % block or not prod(shape):
                raise ValueError(f"tensor {name} of shape {shape} cannot be of type {kind}")
            nbytes = prod(shape) // block * size
            if start + offset + nbytes > len(self._data):
                raise ValueError(f"tensor {name} ends beyond it; the copy or download was cut off")
            if offset % alignment:
                raise ValueError(f"tensor {name} begins at {offset}, which is no multiple of {alignment}")
            return FileTensor(name, shape, kind, start + offset, nbytes)

        return place

    def _info(self) -> tuple[str, tuple[int, ...], int, int]:
        """(name, shape, type, offset)"""
        name = self._string()
        if not name or len(name.encode()) >= _LONGEST_TENSOR_NAME or not name.isprintable():
            raise ValueError(f"it has a tensor that is called {name[:40]!r}")
        dimensions = self._number("<I")
        if dimensions > _MOST_DIMENSIONS:
            raise ValueError(f"tensor {name} has {dimensions} dimensions")
        shape = tuple(self._number("<Q") for _ in range(dimensions))
        return name, shape[::-1], self._number("<I"), self._number("<Q")

    def _number(self, format: str) -> Any:
        size = struct.calcsize(format)
        if self._at + size > len(self._data):
            raise ValueError("it ends within its header; the copy or download was cut off")
        (value,) = struct.unpack_from(format, self._data, self._at)
        self._at += size
        return value

    def _count(self, format: str) -> int:
        value = self._number(format)
        if value > _MOST:
            raise ValueError(f"it claims {value} entries")
        return value

    def _string(self) -> str:
        length = self._number("<Q")
        if length > len(self._data) - self._at:
            raise ValueError("a text ends beyond it")
        if length > _LONGEST_TEXT:
            raise ValueError(f"a text of it has {length:,} bytes")
        self._at += length
        return self._data[self._at - length : self._at].decode("utf-8")

    def _value(self, kind: int) -> Scalar:
        if kind == _STRING:
            return self._string()
        if kind not in _FORMATS:
            raise ValueError(f"a value is of the unknown type {kind}")
        return self._number(_FORMATS[kind])

    def _array(self, key: str) -> Array:
        kind = self._number("<I")
        count = self._number("<Q")
        place = self._at
        if kind == _STRING:
            if count > _MOST_TEXTS:
                raise ValueError(f"{key[:80]} claims {count:,} texts")
            return Array(kind, count, self._texts(count), place)
        if kind not in _FORMATS:
            raise ValueError(f"{key[:80]} is a list of the unknown type {kind}")
        size = count * struct.calcsize(_FORMATS[kind])
        if size > len(self._data) - self._at:
            raise ValueError(f"{key[:80]} claims {count:,} values, and ends beyond it")
        self._at += size
        return Array(kind, count, place=place)

    def _texts(self, count: int) -> tuple[str, ...]:
        """As many as that, one behind another: of most headers nearly all."""
        data, at, end = self._data, self._at, len(self._data)
        texts: list[str] = []
        for _ in range(count):
            if at + 8 > end:
                raise ValueError("it ends within its header; the copy or download was cut off")
            length = int.from_bytes(data[at : at + 8], "little")
            at += 8
            if length > end - at or length > _LONGEST_TEXT:
                raise ValueError("a text ends beyond it")
            texts.append(data[at : at + length].decode("utf-8"))
            at += length
        self._at = at
        return tuple(texts)


def _check_places(tensors: Sequence[FileTensor], start: int, alignment: int) -> None:
    """One tensor's bytes begin where another's end, rounded up: that is how llama.cpp finds them."""
    at = start
    for tensor in tensors:
        if tensor.offset != at:
            raise ValueError(f"tensor {tensor.name} is not where the one before it ends")
        at += tensor.nbytes + -tensor.nbytes % alignment
