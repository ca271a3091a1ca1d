"""What damages a file: JSON values replaced, nested, doubled or taken out, and bytes flipped, cut and spliced."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from copy import deepcopy
from random import Random
from typing import Any

Place = tuple[str | int, ...]
"""The way to a value in a JSON document."""


class Raw(str):
    """JSON text that stands for itself."""


def _nested(depth: int, opening: str = "[", closing: str = "]") -> Raw:
    return Raw(opening * depth + closing * depth)


NASTY: tuple[Any, ...] = (
    None,
    True,
    False,
    0,
    1,
    -1,
    2,
    3,
    7,
    63,
    255,
    1 << 15,
    10**6,
    1 << 31,
    (1 << 31) - 1,
    1 << 32,
    10**9,
    10**12,
    -(10**12),
    1 << 53,
    1 << 62,
    1 << 63,
    (1 << 63) - 1,
    1 << 64,
    10**30,
    Raw("9" * 4000),
    Raw("9" * 5000),
    0.0,
    -0.0,
    0.5,
    1.5,
    1e-300,
    1e30,
    1e308,
    -1e308,
    Raw("1e400"),
    Raw("NaN"),
    Raw("Infinity"),
    Raw("-Infinity"),
    "",
    " ",
    "0",
    "1",
    "64",
    "true",
    "nan",
    "a",
    "\0",
    "a\0b",
    "\n",
    "é",
    "\U0001f642",
    "../x",
    "/etc/passwd",
    "/dev/zero",
    "..",
    ".",
    "a" * 300,
    "a" * 70_000,
    "{{ 1 }}",
    "{% for",
    "x" * 10 + "%s%n",
    Raw('"\\ud800"'),
    Raw('"\\udfff\\ud800"'),
    Raw('"\\u0000"'),
    [],
    {},
    [[]],
    [{}],
    {"": None},
    {"a": 1},
    [None],
    [0],
    [-1],
    ["a"],
    [1, 2, 3],
    [1.5],
    [True],
    [[1], [2]],
    list(range(100)),
    ["x"] * 5000,
    {"content": 1},
    {"content": "<|end|>"},
    {"content": None},
    {"Regex": "("},
    {"String": ""},
    {"type": "Sequence"},
    {"type": "BPE"},
    {"rope_type": "yarn"},
    {"rope_type": "linear", "factor": "x"},
    _nested(10),
    _nested(100),
    _nested(2000),
    _nested(100_000),
    Raw('{"a":' * 500 + "1" + "}" * 500),
    Raw('{"a":' * 50_000 + "1" + "}" * 50_000),
    Raw("[" * 3000),
)
"""Values that a field seldom expects."""


def places(document: Any, at: Place = ()) -> Iterator[Place]:
    """Every value's place, the document's own first; of long lists and objects the first and last few alone."""
    yield at
    children: list[tuple[str | int, Any]] = []
    if isinstance(document, dict):
        children = list(document.items())
    elif isinstance(document, list):
        children = list(enumerate(document))
    if len(children) > 80:
        children = [*children[:10], *children[-10:]]
    for key, child in children:
        yield from places(child, (*at, key))


def at(document: Any, place: Place) -> Any:
    """The value there."""
    for key in place:
        document = document[key]
    return document


def put(document: Any, place: Place, value: Any) -> Any:
    """A copy with another value there."""
    if not place:
        return value
    copy = deepcopy(document)
    at(copy, place[:-1])[place[-1]] = value
    return copy


def text_of(document: Any) -> str:
    """JSON, with every `Raw` as it is."""
    marks: dict[str, str] = {}

    def marked(value: Any) -> Any:
        if isinstance(value, Raw):
            mark = f"@raw{len(marks)}@"
            marks[f'"{mark}"'] = str(value)
            return mark
        if isinstance(value, dict):
            return {key: marked(child) for key, child in value.items()}
        return [marked(child) for child in value] if isinstance(value, list) else value

    text = json.dumps(marked(document), ensure_ascii=False)
    for mark, raw in marks.items():
        text = text.replace(mark, raw)
    return text


def mutated_json(document: Any, rng: Random, nasty: tuple[Any, ...] = NASTY) -> tuple[str, bytes]:
    """(what was done, the text of a damaged copy)."""
    everywhere = list(places(document))
    place = rng.choice(everywhere)
    where = ".".join(map(str, place)) or "all"
    match rng.randrange(12):
        case 0 if place:  # taken out
            copy = deepcopy(document)
            del at(copy, place[:-1])[place[-1]]
            return f"without {where}", text_of(copy).encode()
        case 1 if place and isinstance(place[-1], str):  # twice, with another value
            old = at(document, place)
            copy = put(document, place, Raw(f"{text_of(old)}, {json.dumps(place[-1])}: {text_of(rng.choice(nasty))}"))
            return f"{where} twice", text_of(copy).encode("utf-8", "surrogatepass")
        case 2:  # another value of the same document
            return f"{where} from elsewhere", text_of(
                put(document, place, at(document, rng.choice(everywhere)))
            ).encode()
        case 3:  # in a list or an object, many times
            depth = rng.choice((1, 2, 50, 400, 1500, 20_000))
            old = text_of(at(document, place))
            nested = Raw("[" * depth + old + "]" * depth if rng.random() < 0.5 else '{"a":' * depth + old + "}" * depth)
            return f"{where} in {depth}", text_of(put(document, place, nested)).encode()
        case 4:  # two places at once
            twice = put(document, place, rng.choice(nasty))
            second = rng.choice(list(places(document))[1:] or [()])
            if second[: len(place)] != place:
                twice = put(twice, second, rng.choice(nasty))
            return f"{where} and {'.'.join(map(str, second))}", text_of(twice).encode("utf-8", "surrogatepass")
        case 5:
            return damaged_bytes(text_of(document).encode(), rng)
        case 6 if isinstance(at(document, place), int | float) and not isinstance(at(document, place), bool):
            factor = rng.choice((-1, 0, 2, 0.5, 1 / 3, 10, 1e3, 1e6, 1e9))
            value = at(document, place) * factor
            value = int(value) if isinstance(at(document, place), int) else value
            return f"{where} times {factor:g}", text_of(put(document, place, value)).encode()
        case _:
            value = rng.choice(nasty)
            return f"{where}={str(value)[:20]!r}", text_of(put(document, place, value)).encode("utf-8", "surrogatepass")


def damaged_bytes(data: bytes, rng: Random) -> tuple[str, bytes]:
    """(what was done, damaged bytes)."""
    ways: tuple[Callable[[bytes, Random], tuple[str, bytes]], ...] = (
        _flipped,
        _cut,
        _spliced,
        _filled,
        _inserted,
        _swapped,
    )
    return rng.choice(ways)(data, rng)


def _place(data: bytes, rng: Random) -> int:
    """Mostly near the start, where headers are."""
    return min(len(data) - 1, int(rng.choice((64, 512, 4096, len(data))) * rng.random())) if data else 0


def _flipped(data: bytes, rng: Random) -> tuple[str, bytes]:
    changed = bytearray(data)
    count = rng.choice((1, 1, 2, 8))
    for _ in range(count if data else 0):
        changed[_place(data, rng)] ^= 1 << rng.randrange(8)
    return f"{count} bits flipped", bytes(changed)


def _cut(data: bytes, rng: Random) -> tuple[str, bytes]:
    end = _place(data, rng) if rng.random() < 0.7 else max(0, len(data) - rng.randrange(1, 64))
    return f"cut at {end}", data[:end]


def _spliced(data: bytes, rng: Random) -> tuple[str, bytes]:
    start, stop, to = _place(data, rng), _place(data, rng), _place(data, rng)
    piece = data[min(start, stop) : max(start, stop)]
    return f"{len(piece)} bytes again at {to}", data[:to] + piece + data[to:]


def _filled(data: bytes, rng: Random) -> tuple[str, bytes]:
    start, length = _place(data, rng), rng.choice((1, 2, 4, 8, 16))
    fill = rng.choice((b"\x00", b"\xff", b"\x7f", b"\x80", b'"', b"[", b"{"))
    return f"{length} x {fill!r} at {start}", data[:start] + fill * length + data[start + length :]


def _inserted(data: bytes, rng: Random) -> tuple[str, bytes]:
    start, piece = _place(data, rng), rng.randbytes(rng.choice((1, 2, 4, 9)))
    return f"{len(piece)} bytes put in at {start}", data[:start] + piece + data[start:]


def _swapped(data: bytes, rng: Random) -> tuple[str, bytes]:
    start, length = _place(data, rng), rng.choice((1, 4, 8, 100))
    return f"{length} bytes taken out at {start}", data[:start] + data[start + length :]
