"""Damaged safetensors files: their header's fields, lengths that lie, and weights that are no numbers."""

from __future__ import annotations

import json
import struct
from random import Random
from typing import Any

from benchmarks.fuzzing.mutations import NASTY, Raw, damaged_bytes, mutated_json, put, text_of

_LENGTHS = (
    0,
    1,
    2,
    7,
    8,
    9,
    100,
    1 << 16,
    10**8,
    10**8 + 1,
    1 << 31,
    1 << 32,
    1 << 40,
    1 << 63,
    (1 << 64) - 1,
    (1 << 64) - 8,
)
_DTYPES = (
    "F64",
    "F32",
    "F16",
    "BF16",
    "F8_E4M3",
    "F8_E5M2",
    "I8",
    "U8",
    "I64",
    "BOOL",
    "F4",
    "f32",
    "",
    "C64",
    "E8M0",
    "X" * 300,
)
_SHAPES: tuple[Any, ...] = (
    [],
    [0],
    [1],
    [-1],
    [1 << 32, 1 << 32],
    [1 << 63, 2],
    [1 << 64],
    [2, 2, 2, 2],
    [1] * 200,
    [1] * 20_000,
    [0, 1 << 62],
    [1.5],
    ["4"],
    [None],
    [True],
    "4",
    4,
    None,
    {},
    [[4]],
    [10**30, 0],
)
_OFFSETS: tuple[Any, ...] = (
    [0, 0],
    [0, 1],
    [-4, 4],
    [4, 0],
    [0],
    [0, 4, 8],
    [],
    None,
    "0",
    [0.0, 4.0],
    [None, None],
    [1 << 63, 1 << 64],
    [(1 << 64) - 4, 0],
    [0, 1 << 62],
    [True, 128],
    ["0", "128"],
)
_NOT_NUMBERS = (float("nan"), float("inf"), float("-inf"), 3e38)


def mutated(data: bytes, rng: Random) -> tuple[str, bytes]:
    """(what was done, the file)."""
    (length,) = struct.unpack_from("<Q", data)
    header, body = json.loads(data[8 : 8 + length]), data[8 + length :]
    names = [name for name in header if name != "__metadata__"]
    name = rng.choice(names)
    pick = rng.randrange(12)
    if pick == 0:
        return damaged_bytes(data, rng)
    if pick in (1, 2):
        what, text = mutated_json(header, rng)
        return what, struct.pack("<Q", len(text)) + text + body
    if pick == 3:
        lie = rng.choice(_LENGTHS)
        return f"a header of {lie}", struct.pack("<Q", lie) + data[8:]
    if pick == 4:
        values = bytearray(body)
        for _ in range(rng.choice((1, 4))):
            struct.pack_into("<f", values, 4 * rng.randrange(len(body) // 4), rng.choice(_NOT_NUMBERS))
        return "weights that are no numbers", data[: 8 + length] + bytes(values)
    if pick == 5:
        return "cut", data[: rng.randrange(len(data))]
    if pick == 6:
        return "more behind it", data + bytes(rng.choice((1, 8, 4096)))
    changed: Any
    if pick == 7:
        what, changed = "dtype", put(header, (name, "dtype"), rng.choice((*_DTYPES, rng.choice(NASTY))))
    elif pick == 8:
        what, changed = "shape", put(header, (name, "shape"), rng.choice(_SHAPES))
    elif pick == 9:
        other = header[rng.choice(names)]["data_offsets"]
        what, changed = "offsets", put(header, (name, "data_offsets"), rng.choice((*_OFFSETS, other)))
    elif pick == 10:
        new = rng.choice(
            ("", "\0", "a" * 5000, "__metadata__", "é", name + "x", name.replace("0", "9"), name.replace("0", "9" * 30))
        )
        changed = {new if key == name else key: value for key, value in header.items()}
        what = f"{name} called {new[:20]!r}"
    else:
        what, changed = (
            "the metadata",
            put(header, ("__metadata__",), rng.choice(({"a": 1}, {"a": None}, 1, Raw('{"a": "\\ud800"}'), []))),
        )
    text = text_of(changed).encode("utf-8", "surrogatepass")
    text += b" " * (-len(text) % 8)
    return f"{what} of {name}", struct.pack("<Q", len(text)) + text + body
