"""Metadata about the file itself: what it is, what it is called, under which licence."""

from __future__ import annotations

import re
from pathlib import Path

from pudistill_llamacpp.convert.file_contents import FileContents
from pudistill_llamacpp.convert.hyperparameters import Entry, string, uint32

_FILE_TYPES = {"f32": 0, "f16": 1, "q8_0": 7, "bf16": 32}
"""llama.h, llama_ftype."""
_QUANTISATION_VERSION = 2
_LICENCE = re.compile(r"\A---\n(?:.*\n)*?license:[ \t]*(?P<licence>\S+)[ \t]*\n(?:.*\n)*?---\n")


def general(checkpoint: Path, contents: FileContents, dtype: str) -> list[Entry]:
    """The `general.` keys; the architecture's name is put first by the gguf package."""
    entries = [
        string("general.type", "model"),
        string("general.name", contents.name),
        string("general.size_label", size_label(contents.parameters)),
        *stored_as(dtype),
    ]
    licence = _licence(checkpoint / "README.md")
    return entries if licence is None else [*entries, string("general.license", licence)]


def stored_as(dtype: str) -> list[Entry]:
    """The keys that say how a file's matrices are stored."""
    return [
        uint32("general.file_type", _FILE_TYPES[dtype]),
        uint32("general.quantization_version", _QUANTISATION_VERSION),
    ]


def size_label(parameters: int) -> str:
    """A model's size in words: 135M, 1.2B."""
    for limit, unit in ((1e12, "T"), (1e9, "B"), (1e6, "M")):
        if parameters >= limit:
            return f"{parameters / limit:.{1 if parameters < 10 * limit else 0}f}{unit}"
    return f"{parameters / 1e3:.0f}K"


def _licence(card: Path) -> str | None:
    """The licence that a model card names in its first lines."""
    if not card.is_file():
        return None
    match = _LICENCE.match(card.read_text(encoding="utf-8", errors="replace"))
    return match["licence"].strip("\"'") if match else None
