"""A GGUF file as a student: checked, hashed, and made a checkpoint for the learner."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import fields
from hashlib import blake2b, file_digest
from math import prod
from pathlib import Path

from pudistill_cli.errors import DataError
from pudistill_cli.files.cache_dir import cache_path
from pudistill_cli.foreign_errors import as_data_error
from pudistill_cli.models.model_file import ModelFile, StudentFiles
from pudistill_llamacpp.gguf_file.header import Header, read_header
from pudistill_llamacpp.gguf_student.codec import GgufCodec
from pudistill_llamacpp.gguf_student.config import EMBEDDINGS, architecture_of, config_of
from pudistill_llamacpp.gguf_student.hf_checkpoint import hf_checkpoint_of
from pudistill_llamacpp.gguf_student.rope import FACTORS
from pudistill_llamacpp.gguf_student.tensors import Source, weights_of

_NAMED = {
    "bos_token": "tokenizer.ggml.bos_token_id",
    "eos_token": "tokenizer.ggml.eos_token_id",
    "unk_token": "tokenizer.ggml.unknown_token_id",
    "pad_token": "tokenizer.ggml.padding_token_id",
}


def read_model(path: Path) -> ModelFile:
    """See `pudistill_cli.models.model_file.ReadsModelFiles`: any language model that llama.cpp can run.

    Raises:
        DataError: no whole GGUF file of one part, or no tokenizer that llama.cpp has.
    """
    return _model_file(read_header(path), path)


def read_student(path: Path) -> StudentFiles:
    """See `pudistill_cli.models.model_file.ReadsModelFiles`.

    Raises:
        DataError: as `read_model`, an architecture, setting or quantisation that is not read, or no room for the
            checkpoint.
    """
    header = read_header(path)
    # The types and sizes of an architecture's settings are its table's to know.
    with as_data_error(f"{path} cannot be the student", "Give the checkpoint that it was made from instead."):
        config = config_of(header)
        weights = weights_of(header, architecture_of(header), config)
    model = _model_file(header, path)
    folder = hf_checkpoint_of(weights, config, model.stop_tokens, cache_path() / "gguf-student" / model.fingerprint)
    known = {field.name: getattr(model, field.name) for field in fields(model)}
    return StudentFiles(folder=folder, notices=_notices(weights.sources.values()), **known)


def _model_file(header: Header, path: Path) -> ModelFile:
    if str(header.metadata.get("tokenizer.ggml.model", "none")) in ("none", "no_vocab"):
        raise DataError(
            f"{path} has no tokenizer.", "Give a GGUF file of a whole language model, or a checkpoint folder."
        )
    context = header.metadata.get(f"{header.architecture}.context_length")
    if type(context) is not int:
        raise DataError(f"{path} does not say its context_length.", "Give a GGUF file of a whole language model.")
    codec = GgufCodec(path)
    embeddings = header.tensors.get(EMBEDDINGS)
    if embeddings is not None and embeddings.shape[0] != codec.size:
        raise DataError(
            f"{path} has {codec.size:,} tokens, and embeddings of {embeddings.shape[0]:,} rows.",
            "Give a GGUF file of a whole language model.",
        )
    with as_data_error(f"Cannot read {path}", "Download or copy it again."), path.open("rb") as file:
        fingerprint = file_digest(file, lambda: blake2b(digest_size=16)).hexdigest()
    special = {name: header.metadata[key] for name, key in _NAMED.items() if key in header.metadata}
    return ModelFile(
        source=path,
        codec=codec,
        special={name: token for name, i in special.items() if (token := codec.token_of(int(i))) is not None},
        chat_template=codec.chat_template,
        stop_tokens=codec.ends,
        context=context,
        parameters=sum(prod(tensor.shape) for tensor in header.tensors.values() if tensor.name not in FACTORS),
        fingerprint=fingerprint,
    )


def _notices(sources: Iterable[Source]) -> tuple[str, ...]:
    """What it means that a file is quantised."""
    types = Counter(source.tensor.type_name for source in sources)
    quantised = {name: n for name, n in types.most_common() if name not in ("F32", "F16", "BF16")}
    if not quantised:
        return ()
    listed = ", ".join(f"{n} tensors {name}" for name, n in quantised.items())
    return (
        f"The student's file is quantised ({listed}). The learner trains the same weights without rounding, and "
        "exports are made of those.",
    )
