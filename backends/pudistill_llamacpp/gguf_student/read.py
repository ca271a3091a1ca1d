"""A GGUF file as a student: checked, hashed, and made a checkpoint for the learner."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from hashlib import blake2b, file_digest
from pathlib import Path

from pudistill_cli.errors import DataError
from pudistill_cli.job import cache_path
from pudistill_cli.student_files import StudentFiles
from pudistill_llamacpp.gguf_student.checkpoint import checkpoint_of
from pudistill_llamacpp.gguf_student.codec import GgufCodec
from pudistill_llamacpp.gguf_student.config import architecture_of, config_of
from pudistill_llamacpp.gguf_student.header import read_header
from pudistill_llamacpp.gguf_student.tensors import Source, weights_of

_NAMED = {
    "bos_token": "tokenizer.ggml.bos_token_id",
    "eos_token": "tokenizer.ggml.eos_token_id",
    "unk_token": "tokenizer.ggml.unknown_token_id",
    "pad_token": "tokenizer.ggml.padding_token_id",
}


def read_student(path: Path) -> StudentFiles:
    """See `pudistill_cli.student_files.ReadsStudents`.

    Raises:
        DataError: no whole GGUF file of one part, an architecture, setting, quantisation or tokenizer that is not
            read, or no room for the checkpoint.
    """
    header = read_header(path)
    config = config_of(header)
    weights = weights_of(header, architecture_of(header), config)
    if str(header.metadata.get("tokenizer.ggml.model", "none")) in ("none", "no_vocab"):
        raise DataError(
            f"{path} has no tokenizer.", "Give a GGUF file of a whole language model, or a checkpoint folder."
        )
    codec = GgufCodec(path)
    with path.open("rb") as file:
        fingerprint = file_digest(file, lambda: blake2b(digest_size=16)).hexdigest()
    folder = checkpoint_of(weights, config, codec.ends, cache_path() / "gguf-student" / fingerprint)
    special = {name: header.metadata[key] for name, key in _NAMED.items() if key in header.metadata}
    return StudentFiles(
        source=path,
        folder=folder,
        codec=codec,
        special={name: token for name, i in special.items() if (token := codec.token_of(int(i))) is not None},
        chat_template=codec.chat_template,
        stop_tokens=codec.ends,
        fingerprint=fingerprint,
        notices=_notices(weights.sources.values()),
    )


def _notices(sources: Iterable[Source]) -> tuple[str, ...]:
    """What it means that a file is quantised."""
    types = Counter(source.tensor.type_name for source in sources)
    quantised = {name: n for name, n in types.most_common() if name not in ("F32", "F16", "BF16")}
    if not quantised:
        return ()
    found = ", ".join(f"{n} tensors {name}" for name, n in quantised.items())
    return (
        f"The student's file is quantised ({found}). The learner sees the same weights without rounding, but a merged "
        "export is rounded again and can lose small changes: export gguf-adapter beside it, or name the 16-bit "
        "checkpoint in student.original.",
    )
