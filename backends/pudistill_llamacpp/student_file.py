"""The GGUF file that a student is sampled from: itself, or converted once and kept in the cache by content."""

from __future__ import annotations

import os
from collections.abc import Callable
from hashlib import blake2b, file_digest
from pathlib import Path
from typing import cast

from pudistill_cli.errors import BackendError, DataError, ExportError
from pudistill_cli.files.atomic_files import sync_folder
from pudistill_cli.files.cache_dir import cache_path
from pudistill_cli.models.checkpoint_files import weight_files
from pudistill_llamacpp.convert.writer import GgufDtype, write_gguf
from pudistill_llamacpp.placement import FILE
from pudistill_llamacpp.quantise import dequantise

_AS_IT_IS = "Sample from the file as it is: --set backend.engine=llamacpp --set backend.options.quant=file"
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
    return _made_once(
        f"{_fingerprint(student)}-{quant}",
        lambda file: write_gguf(student, file, dtype=cast("GgufDtype", quant)),
        "Sample with another backend: --set backend.engine=torch",
    )


def sampling_file(student: Path, quant: str) -> Path:
    """As `student_file`, but of a GGUF file a copy with its matrices dequantised to `quant`, unless that is `file`.

    llama.cpp is slow in some of the types that files come in (Q4_1: a third of the speed), and rounds activations to 8
    bits in all of them; the learner trains the dequantised weights.

    Raises:
        BackendError, DataError: as `student_file`.
    """
    if quant == FILE or not student.is_file():
        return student_file(student, quant)
    with student.open("rb") as content:
        digest = file_digest(content, lambda: blake2b(f"{_VERSION}\n".encode(), digest_size=16)).hexdigest()
    return _made_once(f"{digest}-{quant}", lambda file: dequantise(student, file, quant), _AS_IT_IS)


def _made_once(name: str, make: Callable[[Path], object], otherwise: str) -> Path:
    """The file of that name in the cache; BackendError, with what to do otherwise, if it cannot be made."""
    file = cache_path() / "gguf" / f"{name}.gguf"
    if file.is_file():
        return file
    partial = file.with_name(f"{file.stem}.{os.getpid()}.gguf")  # two runs may convert the same student
    try:
        make(partial)
        partial.replace(file)
        sync_folder(file.parent)
    except ExportError as error:
        raise BackendError(error.message, otherwise) from error
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
