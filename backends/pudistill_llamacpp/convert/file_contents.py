"""What a conversion will write, known before a weight is read: metadata, and each tensor's source, name and type."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pudistill_cli.errors import ExportError
from pudistill_cli.models.lora_merge import MergedTensors
from pudistill_cli.models.safetensors_io import equal_values
from pudistill_llamacpp.convert.architectures import architecture_of
from pudistill_llamacpp.convert.architectures.layout import Architecture, Extra, is_ignored
from pudistill_llamacpp.convert.hyperparameters import Entry, Hyperparameters
from pudistill_llamacpp.convert.vocabulary import read_vocabulary

_EMBEDDINGS = "model.embed_tokens.weight"
_HEAD = "lm_head.weight"
_BITS = {"F32": 32.0, "F16": 16.0, "BF16": 16.0, "Q8_0": 8.5}
"""A block of 32 in Q8_0 is 32 bytes and a scale of two."""
_QUANTUM = 32


@dataclass(frozen=True, slots=True)
class OutputTensor:
    """One tensor of the file."""

    name: str
    source: str
    """Its name in the checkpoint, or among the computed ones."""
    shape: tuple[int, ...]
    type: str
    """F32, F16, BF16 or Q8_0."""

    @property
    def nbytes(self) -> int:
        """In the file."""
        return int(prod(self.shape) * _BITS[self.type]) // 8


@dataclass(frozen=True, slots=True)
class FileContents:
    """All of a file."""

    architecture: Architecture
    hyper: Hyperparameters
    name: str
    entries: list[Entry]
    tensors: list[OutputTensor]
    merged: MergedTensors
    extra: Extra

    @property
    def nbytes(self) -> int:
        """Of the tensors; metadata is small beside them."""
        return sum(tensor.nbytes for tensor in self.tensors)

    @property
    def parameters(self) -> int:
        """Entries of all tensors."""
        return sum(prod(tensor.shape) for tensor in self.tensors)

    def values(self, tensor: OutputTensor) -> NDArray[np.float32]:
        """What is stored of a tensor, in float32."""
        if tensor.source in self.extra:
            return self.extra[tensor.source]
        return self.architecture.converted(tensor.source, self.merged.read(tensor.source), self.hyper)


def contents_of(checkpoint: Path, merged: MergedTensors, dtype: str, name: str | None = None) -> FileContents:
    """What the conversion of a checkpoint writes to a file called `name`, by default as its folder.

    Raises:
        ExportError: its architecture, a setting, a tensor or its tokenizer is not one that llama.cpp has.
        DataError: the checkpoint cannot be read.
    """
    architecture = architecture_of(merged.config)
    config = _with_tie(architecture, merged)
    hyper = architecture.hyperparameters(config)
    if (problem := architecture.problem(hyper)) is not None:
        raise ExportError(
            f"This {architecture.model_type} student cannot be written as GGUF: {problem}, "
            "which llama.cpp would compute differently.",
            "Export as hf or adapter instead.",
        )
    extra = architecture.extra(hyper)
    tensors = [OutputTensor(key, key, values.shape, "F32") for key, values in extra.items()]
    for source, new in _names(architecture, merged, config):
        shape = merged.shape(source)
        tensors.append(OutputTensor(new, source, shape, stored_type(new, shape, dtype.upper())))
    vocabulary = read_vocabulary(checkpoint, merged.shape(_EMBEDDINGS)[0], name or checkpoint.resolve().name)
    entries = [*architecture.entries(hyper), *vocabulary.entries()]
    return FileContents(architecture, hyper, vocabulary.name, entries, tensors, merged, extra)


def _with_tie(architecture: Architecture, merged: MergedTensors) -> Mapping[str, Any]:
    """The config, which says that the head is none of the embeddings where it says nothing and the weights do.

    transformers and mlx-lm take a head that is there.
    """
    own = architecture.is_tied(merged.config) and merged.config.get("tie_word_embeddings") is None
    if not own or _HEAD not in merged.tensors or equal_values(merged.tensors[_HEAD], merged.tensors[_EMBEDDINGS]):
        return merged.config
    return {**merged.config, "tie_word_embeddings": False}


def _names(architecture: Architecture, merged: MergedTensors, config: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """(source, name) of every tensor; each of the checkpoint's has its place, and each place its tensor."""
    names = set(merged.names)
    left = {n for n in names if not is_ignored(n)}
    if architecture.is_tied(config):
        left.discard(_HEAD)  # some checkpoints store the embeddings twice
    for module, new in architecture.modules(config):
        if f"{module}.weight" not in names:
            raise ExportError(f"The checkpoint has no tensor {module}.weight.", "Download or copy the student again.")
        for part in ("weight", "bias"):
            if f"{module}.{part}" in names:
                left.discard(f"{module}.{part}")
                yield f"{module}.{part}", f"{new}.{part}"
    if left:
        raise ExportError(
            f"llama.cpp's {architecture.name} has no place for the checkpoint's tensor {min(left)}.",
            "Export as hf or adapter instead.",
        )


def stored_type(name: str, shape: tuple[int, ...], wanted: str) -> str:
    """The type of a tensor in a file whose matrices are in `wanted`."""
    if len(shape) < 2 or name.endswith("_norm.weight"):
        return "F32"
    return "F16" if wanted == "Q8_0" and shape[-1] % _QUANTUM else wanted
