"""What a file really is, by its first bytes, whatever its name says: for messages about the wrong file."""

from __future__ import annotations

from pathlib import Path

GGUF = "a GGUF file"
SAFETENSORS = "a safetensors file"
LFS_POINTER = "a Git LFS pointer, not the file that it stands for"
WEB_PAGE = "a web page (HTML)"

_LONGEST = 512
_MAGIC = {
    b"GGUF": GGUF,
    b"version https://git-lfs.github.com/spec/": LFS_POINTER,
    b"\x1f\x8b": "a gzip archive",
    b"\x28\xb5\x2f\xfd": "a zstd archive",
    b"BZh": "a bzip2 archive",
    b"\xfd7zXZ\x00": "an xz archive",
    b"7z\xbc\xaf\x27\x1c": "a 7z archive",
    b"PK\x03\x04": "a zip archive (a spreadsheet and a pickle of torch are such too)",
    b"PAR1": "a Parquet file",
    b"ARROW1": "an Arrow file",
    b"SQLite format 3\x00": "an SQLite database",
    b"%PDF-": "a PDF document",
    b"\x93NUMPY": "a NumPy array",
}
_PAGES = (b"<!doctype html", b"<html")
_ADVICE = {
    LFS_POINTER: "Fetch the file itself: git lfs pull, in the folder of its repository.",
    WEB_PAGE: "Download it again: what was saved is a page of the site, an error or a login perhaps.",
}


def kind_of(start: bytes) -> str | None:
    """What a file that begins with these bytes is, for a message; None where nothing tells, as in plain text."""
    for magic, kind in _MAGIC.items():
        if start.startswith(magic):
            return kind
    if start.removeprefix(b"\xef\xbb\xbf").lstrip().lower().startswith(_PAGES):
        return WEB_PAGE
    # Safetensors: 8 bytes of length, then a JSON object.
    length = int.from_bytes(start[:8], "little")
    return SAFETENSORS if start[8:9] == b"{" and 2 <= length < 1 << 32 else None


def kind_of_file(path: Path) -> str | None:
    """As `kind_of`, of a file; None for one that is not there, is no regular file, or cannot be read."""
    if not path.is_file():  # a pipe would wait for its writer
        return None
    try:
        with path.open("rb") as file:
            return kind_of(file.read(_LONGEST))
    except OSError:
        return None


def advice_for(kind: str | None, otherwise: str) -> str:
    """What to do about a file of this kind."""
    return _ADVICE.get(kind or "", otherwise)
