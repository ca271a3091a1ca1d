"""The header of a safetensors file, checked before anything is read or allocated by it.

8 bytes of little-endian length, then JSON of dtype, shape and data_offsets by name; the tensors' bytes follow it
without a gap. Libraries trust parts of that: a shape that does not fit its bytes is memory that somebody allocates.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import prod
from pathlib import Path
from typing import Any, cast

from pudistill_cli.errors import DataError
from pudistill_cli.files.file_kinds import SAFETENSORS, advice_for, kind_of_file
from pudistill_cli.foreign_errors import reason_of
from pudistill_cli.models.reading import check_regular, parse_json, unreadable

METADATA = "__metadata__"
MOST_BYTES = 32 << 20
"""Of a header: 200,000 tensors, where a file of real models has 10,000 at most."""
_MOST_DIMENSIONS = 8
_MOST_NAME = 1024
_COPY_AGAIN = "Copy it again."
_BITS = {
    **dict.fromkeys(("F64", "I64", "U64", "C64"), 64),
    **dict.fromkeys(("F32", "I32", "U32"), 32),
    **dict.fromkeys(("F16", "BF16", "I16", "U16"), 16),
    **dict.fromkeys(("F8_E4M3", "F8_E5M2", "F8_E4M3FNUZ", "F8_E5M2FNUZ", "F8_E8M0", "I8", "U8", "BOOL"), 8),
    **dict.fromkeys(("F6_E2M3", "F6_E3M2"), 6),
    "F4": 4,
}
"""Of an entry, by the format's names of types."""

Entry = Mapping[str, Any]
"""`dtype` (text), `shape` (sizes) and `data_offsets` (the first byte and the one behind the last)."""


def safetensors_header(path: Path) -> dict[str, Any]:
    """The header: an `Entry` by each tensor's name, and texts by name as `__metadata__`.

    Raises:
        DataError: the file is no safetensors file, or not whole, or its header does not describe its bytes.
    """
    size = check_regular(path, _COPY_AGAIN)
    kind = kind_of_file(path)
    if kind not in (None, SAFETENSORS):
        raise DataError(f"{path} is {kind}.", advice_for(kind, "Give the folder of a checkpoint in Hugging Face form."))
    try:
        return _read(path, size)
    except OSError as error:
        raise unreadable(path, error, _COPY_AGAIN) from error
    except (ValueError, RecursionError, MemoryError) as error:
        raise DataError(f"{path} is not a whole safetensors file: {reason_of(error)}.", _COPY_AGAIN) from error


def _read(path: Path, size: int) -> dict[str, Any]:
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if length + 8 > size:
            raise ValueError("the header is longer than the file")
        if length > MOST_BYTES:
            raise ValueError(f"its header claims {length:,} bytes, and has no more than {MOST_BYTES:,}")
        data = file.read(length)
    if len(data) != length:
        raise ValueError("the file was cut off while it was read")
    header = parse_json(data)
    if not isinstance(header, dict):
        raise ValueError("its header is no JSON object")
    content = cast("dict[str, Any]", header)
    _check_metadata(content.get(METADATA, {}))
    entries = {name: _checked(name, entry) for name, entry in content.items() if name != METADATA}
    _check_places(entries, size - 8 - length)
    return content


def _check_metadata(value: object) -> None:
    if not isinstance(value, dict) or not all(isinstance(v, str) for v in cast("dict[str, object]", value).values()):
        raise ValueError(f"its {METADATA} is no object of texts")


def _checked(name: str, value: object) -> Entry:
    """An entry whose types, shape and offsets are sound, and fit each other."""
    shown = name[:80]
    if not name or len(name) > _MOST_NAME or not name.isprintable():
        raise ValueError(f"it has a tensor that is called {shown!r}")
    if not isinstance(value, dict):
        raise ValueError(f"its entry of {shown} is no object")
    entry = cast("Entry", value)
    missing = [key for key in ("dtype", "shape", "data_offsets") if key not in entry]
    if missing:
        raise ValueError(f"its entry of {shown} lacks {missing[0]}")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in _BITS:
        raise ValueError(f"its tensor {shown} is of the unknown type {str(dtype)[:40]!r}")
    if not _are_sizes(shape) or len(shape) > _MOST_DIMENSIONS:
        raise ValueError(f"the shape of its tensor {shown} is no list of sizes")
    if not _are_sizes(offsets) or len(offsets) != 2 or offsets[0] > offsets[1]:
        raise ValueError(f"the data_offsets of its tensor {shown} are no two places in the file")
    # Python's integers do not overflow; what is allocated by a product that does is another size.
    if 8 * (offsets[1] - offsets[0]) != prod(shape) * _BITS[dtype] or max(shape, default=0) >= 1 << 62:
        raise ValueError(f"the bytes of its tensor {shown} do not fit its shape")
    return entry


def _are_sizes(value: object) -> bool:
    return isinstance(value, list) and all(type(n) is int and n >= 0 for n in cast("list[object]", value))


def _check_places(entries: Mapping[str, Entry], size: int) -> None:
    """One tensor's bytes begin where another's end, up to the end of the file."""
    end = 0
    for name, entry in sorted(entries.items(), key=lambda item: item[1]["data_offsets"]):
        begin, stop = entry["data_offsets"]
        if begin != end:
            between = "overlap those of another" if begin < end else "leave a gap before them"
            raise ValueError(f"the bytes of its tensor {name[:80]} {between}")
        end = stop
    if end != size:
        raise ValueError("its size does not fit its header; the copy or download was cut off")
