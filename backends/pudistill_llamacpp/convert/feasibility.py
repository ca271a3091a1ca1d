"""What would make a conversion fail, and the room it takes, known before a run spends anything."""

from __future__ import annotations

import tempfile
from pathlib import Path

from pudistill_cli.errors import PudistillError
from pudistill_cli.foreign_errors import reason_of
from pudistill_cli.models.float16 import beyond_float16
from pudistill_cli.models.lora_merge import merged_tensors
from pudistill_cli.models.tokenizer import StudentTokenizer
from pudistill_llamacpp.convert.file_contents import contents_of
from pudistill_llamacpp.convert.writer import GgufDtype, write_vocabulary
from pudistill_llamacpp.verify import check_text, expected_of

_METADATA = 64
"""Bytes a token of the vocabulary takes at most, with its merge, its type and its score."""


def problem(checkpoint: Path) -> str | None:
    """Why `checkpoint` cannot be written as GGUF; None if it can.

    Everything but the values of the weights is looked at: architecture, settings, tensors, tokenizer. The tokenizer
    is written alone and tried: llama.cpp must make the same ids of stress texts and conversations.
    """
    try:
        contents_of(checkpoint, merged_tensors(checkpoint), "f16")
        with tempfile.TemporaryDirectory() as folder:
            vocabulary = Path(folder) / "vocabulary.gguf"
            write_vocabulary(checkpoint, vocabulary)
            check_text(vocabulary, expected_of(StudentTokenizer.load(checkpoint), {}))
    except PudistillError as error:
        return f"{error.message} {error.hint}".strip()
    except Exception as error:  # noqa: BLE001 - of a checkpoint that is damaged in a way that no other check saw
        return f"it cannot be converted: {reason_of(error)}."
    return None


def overflow(checkpoint: Path, dtype: str) -> str | None:
    """Which weight is too large for what it would be stored in, as far as the checkpoint shows it; None if none is.

    Where float16 takes no part, no weight is read.
    """
    if dtype not in ("f16", "q8_0"):
        return None
    merged = merged_tensors(checkpoint)
    halves = [t.source for t in contents_of(checkpoint, merged, dtype).tensors if t.type == "F16"]
    name = beyond_float16(merged.tensors[source] for source in halves if source in merged.tensors)
    if name is None:
        return None
    return (
        f"a weight of {name} is beyond the largest number of float16, 65,504. Use the format gguf in bf16, which is as "
        "small: --set export.formats=[gguf] --set export.quants=[bf16]."
    )


def bytes_needed(checkpoint: Path, dtype: GgufDtype) -> int:
    """Size of the file that `write_gguf` makes, a little rounded up.

    Raises:
        ExportError, DataError: `problem` says why it cannot be made.
    """
    merged = merged_tensors(checkpoint)
    contents = contents_of(checkpoint, merged, dtype)
    return contents.nbytes + _METADATA * merged.shape("model.embed_tokens.weight")[0] + (1 << 20)
