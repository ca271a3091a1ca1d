"""A small model of a student's own shape, to be timed in its place: a few of its blocks, with weights of no meaning."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pudistill_cli.models.lora_merge import merged_tensors
from pudistill_llamacpp.convert import architectures
from pudistill_llamacpp.convert.architectures.layout import Architecture
from pudistill_llamacpp.convert.file_contents import OutputTensor, stored_type
from pudistill_llamacpp.convert.hyperparameters import string, uint32
from pudistill_llamacpp.convert.writer import stored, write_file
from pudistill_llamacpp.gguf_file.header import read_header
from pudistill_llamacpp.gguf_student import config as gguf_config

ENTRIES = 1 << 24
"""Weights that a trial needs, so that they do not stay in a core's own cache: 32 MiB in 16 bits."""
_BLOCK = "blk."
_VOCABULARY = ("token_embd.weight", "output.weight")
_SIZE = "{arch}.vocab_size"
_PARTS = ("weight", "bias")
_ROWS = 64
"""Of a matrix that differ from each other."""


@dataclass(frozen=True, slots=True)
class Shape:
    """A student without its weights' values."""

    architecture: Architecture
    config: Mapping[str, Any]
    """config.json, or what a GGUF file says in its terms."""
    tensors: Mapping[str, tuple[int, ...]]
    """By llama.cpp's names, as the student has them."""

    @property
    def parameters(self) -> int:
        """Entries of all tensors."""
        return sum(map(prod, self.tensors.values()))

    @property
    def blocks(self) -> int:
        """Of the student."""
        return int(self.config["num_hidden_layers"])

    @property
    def blocks_tried(self) -> int:
        """As many as hold `ENTRIES` weights, or all."""
        one = sum(prod(shape) for name, shape in self.tensors.items() if name.startswith("blk.0."))
        return min(self.blocks, -(-ENTRIES // max(one, 1)))


def shape_of(student: Path) -> Shape:
    """Of a GGUF file or a checkpoint's folder; no weight is read.

    Raises:
        ExportError, DataError: it is not a student that llama.cpp can sample.
    """
    if student.is_file():
        header = read_header(student)
        config, architecture = gguf_config.config_of(header), gguf_config.architecture_of(header)
        return Shape(architecture, config, {name: tensor.shape for name, tensor in header.tensors.items()})
    merged = merged_tensors(student)
    architecture = architectures.architecture_of(merged.config)
    names = {f"{new}.{part}": f"{old}.{part}" for old, new in architecture.modules(merged.config) for part in _PARTS}
    tensors = {new: merged.shape(old) for new, old in names.items() if old in merged.tensors}
    return Shape(architecture, merged.config, tensors)


def write_excerpt(shape: Shape, quant: str, out: Path) -> None:
    """Write a GGUF file of the student's first blocks and as large a part of its vocabulary, matrices in `quant`."""
    blocks = shape.blocks_tried
    rows = max(_ROWS, shape.tensors[_VOCABULARY[0]][0] * blocks // shape.blocks)
    hyper = shape.architecture.hyperparameters({**shape.config, "num_hidden_layers": blocks, "vocab_size": rows})
    tensors = [
        OutputTensor(name, name, kept, stored_type(name, kept, quant.upper()))
        for name, own in shape.tensors.items()
        if not name.startswith(_BLOCK) or int(name.split(".")[1]) < blocks
        if (kept := (rows, *own[1:]) if name in _VOCABULARY else own)
    ]
    extra = shape.architecture.extra(hyper)
    tensors = [t for t in tensors if t.name not in extra]
    tensors += [OutputTensor(name, name, values.shape, "F32") for name, values in extra.items()]
    entries = [e for e in shape.architecture.entries(hyper) if e.key != _SIZE]
    entries += [string("tokenizer.ggml.model", "none"), uint32(_SIZE, rows)]
    write_file(out, shape.architecture.name, entries, tensors, _values(tensors, extra))


def _values(tensors: list[OutputTensor], extra: Mapping[str, NDArray[np.float32]]) -> Iterator[NDArray[Any]]:
    """Norms of one, and matrices of small random numbers, repeated after a few rows: how fast it is does not differ."""
    generator = np.random.default_rng(0)
    for tensor in tensors:
        if tensor.name in extra:
            yield extra[tensor.name]
        elif len(tensor.shape) < 2:
            yield np.ones(tensor.shape, np.float32)
        else:
            few = generator.normal(0.0, 0.02, (min(_ROWS, tensor.shape[0]), *tensor.shape[1:])).astype(np.float32)
            bits = stored(tensor, few)
            yield np.resize(bits, (tensor.shape[0], *bits.shape[1:]))
