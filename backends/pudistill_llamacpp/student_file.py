"""The GGUF file that a student is sampled from: itself, or its checkpoint converted once and kept by content."""

from __future__ import annotations

import os
from hashlib import blake2b, file_digest
from pathlib import Path
from typing import cast

from pudistill_cli.atomic_files import sync_folder
from pudistill_cli.cache_dir import cache_path
from pudistill_cli.errors import BackendError, DataError, ExportError
from pudistill_cli.models.checkpoint_files import weight_files
from pudistill_llamacpp.convert.writer import GgufDtype, write_gguf

_VERSION = 1
"""Of what the converter writes: a file of another version is written anew."""
_CONTENT = (
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "tokenizer.model",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "chat_template.jinja",
)


def student_file(student: Path, quant: str) -> Path:
    """A GGUF file as it is; of a folder in Hugging Face form, its conversion to `quant`.

    Raises:
        BackendError: the architecture or tokenizer is not one that llama.cpp has, or the disk is full.
        DataError: the checkpoint cannot be read.
    """
    if student.is_file():
        return student
    if not student.is_dir():
        raise DataError(f"There is no student {student}.", "Name a checkpoint's folder or a GGUF file.")
    file = cache_path() / "gguf" / f"{_fingerprint(student)}-{quant}.gguf"
    if file.is_file():
        return file
    partial = file.with_name(f"{file.stem}.{os.getpid()}.gguf")  # two runs may convert the same student
    try:
        write_gguf(student, partial, dtype=cast("GgufDtype", quant))
        partial.replace(file)
        sync_folder(file.parent)
    except ExportError as error:
        raise BackendError(error.message, "Sample with another backend: --set backend.engine=torch") from error
    finally:
        partial.unlink(missing_ok=True)
    return file


def _fingerprint(folder: Path) -> str:
    """Over names and contents of all that a conversion reads."""
    whole = blake2b(f"{_VERSION}\n".encode(), digest_size=16)
    for path in (*(folder / name for name in _CONTENT), *weight_files(folder)):
        if path.is_file():
            with path.open("rb") as file:
                digest = file_digest(file, lambda: blake2b(digest_size=16)).hexdigest()
            whole.update(f"{path.name} {digest}\n".encode())
    return whole.hexdigest()
