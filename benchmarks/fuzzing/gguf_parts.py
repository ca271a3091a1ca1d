"""A GGUF file taken apart and written again, every count and length free to lie."""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from typing import Any

SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
STRING, ARRAY = 8, 9


@dataclass
class Value:
    """Of a key: its type by number, an array's element type, and its contents; `count` is what it claims to hold."""

    kind: int
    value: Any
    of: int = 0
    count: int | None = None

    def bytes(self) -> bytes:
        if self.kind == ARRAY:
            items = b"".join(Value(self.of, item).bytes() for item in self.value)
            return struct.pack("<IQ", self.of, len(self.value) if self.count is None else self.count) + items
        if self.kind == STRING:
            return string(self.value, self.count)
        if self.kind in SCALARS:
            return packed(SCALARS[self.kind], self.value)
        return struct.pack("<I", 0)


@dataclass
class Tensor:
    name: bytes
    dims: list[int]
    """Columns first, as the file has them."""
    type: int
    offset: int
    ndims: int | None = None

    def bytes(self) -> bytes:
        head = string(self.name) + struct.pack("<I", len(self.dims) if self.ndims is None else self.ndims & 0xFFFFFFFF)
        dims = b"".join(packed("Q", d) for d in self.dims)
        return head + dims + packed("I", self.type) + packed("Q", self.offset)


@dataclass
class Parts:
    keys: list[tuple[bytes, Value]]
    tensors: list[Tensor]
    data: bytes
    magic: bytes = b"GGUF"
    version: int = 3
    alignment: int = 32
    key_count: int | None = None
    tensor_count: int | None = None
    tail: bytes = field(default=b"")

    def bytes(self) -> bytes:
        tensors = len(self.tensors) if self.tensor_count is None else self.tensor_count
        keys = len(self.keys) if self.key_count is None else self.key_count
        head = self.magic + packed("I", self.version) + packed("Q", tensors) + packed("Q", keys)
        head += b"".join(string(key) + packed("I", value.kind) + value.bytes() for key, value in self.keys)
        head += b"".join(tensor.bytes() for tensor in self.tensors)
        return head + bytes(-len(head) % max(1, self.alignment)) + self.data + self.tail


def packed(format: str, value: Any) -> bytes:
    """A number, wrapped around where it does not fit."""
    if format in "fd?":
        return struct.pack("<" + format, value)
    size = struct.calcsize(format)
    return (int(value) & ((1 << 8 * size) - 1)).to_bytes(size, "little")


def string(text: bytes, count: int | None = None) -> bytes:
    return packed("Q", len(text) if count is None else count) + text


def parsed(data: bytes) -> Parts:
    """A sound file's parts."""
    place = 4

    def number(format: str) -> Any:
        nonlocal place
        (value,) = struct.unpack_from("<" + format, data, place)
        place += struct.calcsize("<" + format)
        return value

    def text() -> bytes:
        nonlocal place
        length = number("Q")
        place += length
        return data[place - length : place]

    def value(kind: int) -> Any:
        return text() if kind == STRING else number(SCALARS[kind])

    version, tensors, keys = number("I"), number("Q"), number("Q")
    held: list[tuple[bytes, Value]] = []
    for _ in range(keys):
        key, kind = text(), number("I")
        if kind == ARRAY:
            of, count = number("I"), number("Q")
            held.append((key, Value(ARRAY, [value(of) for _ in range(count)], of)))
        else:
            held.append((key, Value(kind, value(kind))))
    infos: list[Tensor] = []
    for _ in range(tensors):
        name, n = text(), number("I")
        infos.append(Tensor(name, [number("Q") for _ in range(n)], number("I"), number("Q")))
    start = -(-place // 32) * 32
    return Parts(held, infos, data[start:], version=version)
