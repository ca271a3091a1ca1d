"""Mutated bundles: each is refused with one sentence, or holds what its manifest says and writes nowhere else.

`inputs(seed, count)` gives the inputs; a callable returns or raises a PudistillError, and anything else is a fault.
"""

from __future__ import annotations

import json
import random
import shutil
import stat
import struct
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from hashlib import sha256
from io import BytesIO
from pathlib import Path
from typing import Any

from pudistill_cli.bundle.archive import Bundle
from pudistill_cli.bundle.layout import RECIPE
from pudistill_cli.bundle.opening import refuse_strangers

Bytes = Callable[[random.Random], bytes]

_RECIPE = """\
name: fuzzed
student: {model: ./student}
teacher: {kind: file, path: anchors.jsonl}
prompts: {train: prompts/train.jsonl, dev: prompts/dev.jsonl, test: prompts/test.jsonl}
"""
FILES = {
    "anchors.jsonl": b'{"prompt": "a", "answer": "b"}\n',
    "prompts/dev.jsonl": b'{"prompt": "b"}\n',
    "prompts/test.jsonl": b'{"prompt": "c"}\n',
    "prompts/train.jsonl": b'{"prompt": "a"}\n',
    RECIPE: _RECIPE.encode(),
    "student/config.json": b"{}",
}
NAMES = (
    "/abs", "../up", "a/../../up", "C:/x", "c:x", "a\\b", "..", ".", "", "a//b", "a/", "nul", "con.txt", "x" * 300,
    "a\0b", "a\nb", "\x1b]52;c;x\x07", "a\u202eb", "\ud800", "A" * 65_535, "/".join("a" * 60), "manifest.json",
    "MANIFEST.JSON", "anchors.jsonl/x", "Prompts/x", "student", "~/x", "$HOME/x", "file:///x", "é", "e\u0301",
)  # fmt: skip
MODES = (stat.S_IFLNK, stat.S_IFDIR, stat.S_IFIFO, stat.S_IFSOCK, stat.S_IFCHR, stat.S_IFBLK, stat.S_IFREG, 0, 0o170000)
NUMBERS = (0, 1, 2, 21, 22, 0x7F, 0xFF, 0x100, 0x7FFF, 0xFFFF, 1 << 31, (1 << 32) - 1, 1 << 63, (1 << 64) - 1)
VALUES: tuple[Any, ...] = (
    None, True, -1, 0, 2, 1e308, float("nan"), 10**30, "", "x", "\x1b[2J", "0" * 64, "0" * 63, [], {}, [[]], {"": {}},
)  # fmt: skip
RECIPES = (
    ("./student", "/etc"), ("./student", ".."), ("./student", "org/name"), ("./student", "./student/../.."),
    ("anchors.jsonl", "/proc/self/environ"), ("prompts/dev.jsonl", "../../x"), ("prompts/dev.jsonl", "prompts"),
    ("kind: file", "kind: openai"), ("name: fuzzed", "name: ../x"), ("name: fuzzed", "eval: {metric: timeit:timeit}"),
    ("name: fuzzed", "export: {llama_cpp: /tmp}"), ("name:", "&a [*a]:"), ("fuzzed", "!!python/object:os.system x"),
    ("{", "["), ("}", ""), ("\n", "\r"), ("fuzzed", "\udc80"), ("fuzzed", "1" * 5000),
)  # fmt: skip


def inputs(seed: int, count: int) -> Iterator[tuple[str, Callable[[], object]]]:
    """So many inputs, the same ones for a seed: what was done to the bundle, and what opens it."""
    for i in range(count):
        chance = random.Random(f"{seed} {i}")
        kind = chance.choice(tuple(KINDS))
        yield f"{kind} {seed}:{i}", lambda chance=chance, kind=kind: open_bytes(KINDS[kind](chance))


def open_bytes(data: bytes) -> None:
    """Open, unpack and look into a bundle, as `pudistill run` does, in a folder of its own.

    Raises:
        AssertionError: something was written elsewhere, or is not what the manifest says.
    """
    base = Path(tempfile.mkdtemp(prefix="pudistill-fuzz-"))
    try:
        path, folder = base / "x.pudi", base / "room" / "out"
        path.write_bytes(data)
        folder.mkdir(parents=True)
        try:
            with Bundle(path) as bundle:
                bundle.extract(folder, lambda n: None)
                sums = {name: entry.sha256 for name, entry in bundle.manifest.files.items()}
                found = {p.relative_to(folder).as_posix(): p for p in folder.rglob("*") if not p.is_dir()}
                assert not [p for p in found.values() if p.is_symlink()]
                assert {name: sha256(p.read_bytes()).hexdigest() for name, p in found.items()} == sums
                if RECIPE in sums:
                    refuse_strangers(bundle, folder)
        finally:
            assert sorted(p.name for p in base.iterdir()) == ["room", "x.pudi"]
            assert [p.name for p in (base / "room").iterdir()] == ["out"]
    finally:
        shutil.rmtree(base)


# --- what is done to one ---


def _listed(files: dict[str, bytes]) -> dict[str, Any]:
    entries = {name: {"size": len(data), "sha256": sha256(data).hexdigest()} for name, data in files.items()}
    return {"pudistill_bundle": 1, "kind": "job", "version": "0.1.0", "created": "2026-11-30", "files": entries}


def _zipped(members: list[tuple[str, bytes]], change: Callable[[zipfile.ZipInfo], None] = lambda info: None) -> bytes:
    out = BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for name, data in members:
            info = zipfile.ZipInfo("x")
            info.filename = info.orig_filename = name
            info.external_attr = (stat.S_IFREG | 0o600) << 16
            change(info)
            if name not in archive.NameToInfo:
                archive.writestr(info, data)
    return out.getvalue()


def _whole(files: dict[str, bytes] = FILES, manifest: Any = None) -> bytes:
    text = manifest if isinstance(manifest, bytes) else json.dumps(manifest or _listed(files)).encode()
    return _zipped([*files.items(), ("manifest.json", text)])


GOOD = _whole()


def _flipped(chance: random.Random) -> bytes:
    data = bytearray(GOOD)
    for _ in range(chance.choice((1, 1, 2, 8, 64))):
        data[chance.randrange(len(data))] = chance.randrange(256)
    return bytes(data)


def _cut(chance: random.Random) -> bytes:
    return GOOD[: chance.randrange(len(GOOD))]


def _spliced(chance: random.Random) -> bytes:
    """Pieces left out, doubled or put elsewhere."""
    a, b, c = sorted(chance.randrange(len(GOOD)) for _ in range(3))
    return chance.choice((GOOD[:a] + GOOD[b:], GOOD[:b] + GOOD[a:], GOOD[:a] + GOOD[b:c] + GOOD[a:b] + GOOD[c:]))


def _padded(chance: random.Random) -> bytes:
    more = chance.randbytes(chance.choice((1, 22, 98, 4096)))
    return chance.choice((more + GOOD, GOOD + more, GOOD + GOOD))


def _record(chance: random.Random) -> bytes:
    """A number of one of the archive's own records changed: offsets, sizes, counts, flags, methods."""
    data = bytearray(GOOD)
    signature, length = chance.choice(((b"PK\x03\x04", 30), (b"PK\x01\x02", 46), (b"PK\x05\x06", 22)))
    places = [i for i in range(len(data)) if data.startswith(signature, i)]
    place = chance.choice(places) + chance.randrange(4, length - 2, 2)
    form, width = chance.choice((("<H", 2), ("<L", 4), ("<Q", 8)))
    value = chance.choice(NUMBERS) & ((1 << 8 * width) - 1)
    piece = struct.pack(form, value)[: len(data) - place]
    data[place : place + len(piece)] = piece
    return bytes(data)


def _end64(chance: random.Random) -> bytes:
    """The 64-bit records at the end, with numbers that may be wrong."""
    *_, count, size, start, _ = struct.unpack("<4s4H2LH", GOOD[-22:])
    right = [44, 45, 45, 0, 0, count, count, size, start]
    right[chance.randrange(len(right))] = chance.choice(NUMBERS) % (1 << 16)
    record = struct.pack("<4sQ2H2L4Q", b"PK\x06\x06", *right)
    place = len(GOOD) - 22 if chance.random() < 0.7 else chance.choice(NUMBERS)
    return GOOD[:-22] + record + struct.pack("<4sLQL", b"PK\x06\x07", 0, place, 1) + GOOD[-22:]


def _named(chance: random.Random) -> bytes:
    """A hostile name, in the archive, the manifest, or both."""
    old, new = chance.choice(tuple(FILES)), chance.choice(NAMES)
    members = {(new if name == old else name): data for name, data in FILES.items()}
    listed = _listed(chance.choice((FILES, members)))
    written = {name.encode("utf-8", "replace").decode(): data for name, data in members.items()}
    return _whole({n[:60_000]: d for n, d in written.items()}, json.dumps(listed).encode())


def _moded(chance: random.Random) -> bytes:
    target, mode = chance.choice(tuple(FILES)), chance.choice(MODES) | chance.choice((0o600, 0o777, 0o7777))

    def change(info: zipfile.ZipInfo) -> None:
        if info.filename == target:
            info.external_attr = mode << 16
            info.compress_type = chance.choice((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2))

    return _zipped([*FILES.items(), ("manifest.json", json.dumps(_listed(FILES)).encode())], change)


def _manifest(chance: random.Random) -> bytes:
    """A value of the manifest changed, or one put beside it."""
    listed = _listed(FILES)
    place = chance.choice((listed, listed["files"], chance.choice(tuple(listed["files"].values()))))
    place[chance.choice((*place, "more", ""))] = chance.choice(VALUES)
    return _whole(manifest=json.dumps(listed).encode())


def _manifest_bytes(chance: random.Random) -> bytes:
    text = bytearray(json.dumps(_listed(FILES)).encode())
    for _ in range(chance.choice((1, 2, 16))):
        i = chance.randrange(len(text))
        text[i : i + chance.choice((0, 1, 8))] = chance.choice(
            (b"", b"{", b"[" * 5000, b'"', b"\\ud800", b"\xff", b"1e999")
        )
    return _whole(manifest=bytes(text))


def _recipe(chance: random.Random) -> bytes:
    """Another recipe, with sums that fit: what whoever sends a bundle can do."""
    text = _RECIPE
    for _ in range(chance.choice((1, 2))):
        old, new = chance.choice(RECIPES)
        text = text.replace(old, new, 1)
    data = bytearray(text.encode("utf-8", "surrogateescape"))
    if chance.random() < 0.3:
        data[chance.randrange(len(data))] = chance.randrange(256)
    return _whole(FILES | {RECIPE: bytes(data)})


def _contents(chance: random.Random) -> bytes:
    """Contents exchanged under a checksum of the archive's own that fits: only the manifest's tells."""
    data = bytearray(GOOD)
    name = chance.choice([n for n, d in FILES.items() if len(d) > 8])
    old = FILES[name]
    i = data.index(old)
    new = bytes([*old[:-1], old[-1] ^ 1])
    data[i : i + len(new)] = new
    crc = struct.pack("<L", zlib.crc32(old))
    return bytes(data).replace(crc, struct.pack("<L", zlib.crc32(new)))


KINDS: dict[str, Bytes] = {
    "bytes": _flipped,
    "cut": _cut,
    "splice": _spliced,
    "padding": _padded,
    "record": _record,
    "64-bit end": _end64,
    "name": _named,
    "mode": _moded,
    "manifest": _manifest,
    "manifest's bytes": _manifest_bytes,
    "recipe": _recipe,
    "contents": _contents,
}
