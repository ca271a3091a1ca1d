"""A LoRA adapter in PEFT's format as a GGUF file: `blk.N.attn_q.weight.lora_a` and `.lora_b` in float32, and alpha."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pudistill_cli.errors import DataError, ExportError
from pudistill_cli.models.peft_adapter import LowRank, read_adapter
from pudistill_llamacpp.convert.architectures import ARCHITECTURES, architecture_of
from pudistill_llamacpp.convert.architectures.layout import Architecture

Config = Mapping[str, Any]

_BY_NAME: Mapping[str, Architecture] = {a.name: a for a in reversed(tuple(ARCHITECTURES.values()))}
"""By llama.cpp's name; of several that share one (Llama, Mistral), the first."""
_QUANTISATION_VERSION = 2


def write_lora_gguf(adapter: Path, config: Config, out: Path, name: str | None = None) -> None:
    """Write the adapter of a base model with this config.json to the new file `out`.

    llama.cpp adds (alpha / r) B A with one alpha for all modules; where PEFT's factor of a module is another one, B
    takes up the difference. Matrices are those of the base model in llama.cpp's order: q and k of Llama have their
    rows permuted, and so has their B.

    Raises:
        DataError: no LoRA adapter that llama.cpp can apply, or it changes modules that this model does not have.
        ExportError: the architecture is not one that can be written.
    """
    write_lora(adapter, architecture_of(config), config, out, name)


def config_of(metadata: Mapping[str, str]) -> tuple[Architecture, Config]:
    """Architecture and config.json, as far as an adapter depends on it, from a GGUF file's metadata.

    Raises:
        DataError: an architecture whose adapters cannot be converted.
    """
    name = metadata["general.architecture"]
    if name not in _BY_NAME:
        raise DataError(
            f"Adapters of the architecture {name} cannot be converted here; {', '.join(_BY_NAME)} can.",
            "Convert it with llama.cpp's convert_lora_to_gguf.py, and give the GGUF file.",
        )
    keys = {
        "num_hidden_layers": "block_count",
        "num_attention_heads": "attention.head_count",
        "num_key_value_heads": "attention.head_count_kv",
        "hidden_size": "embedding_length",
    }
    config = {key: int(metadata[f"{name}.{gguf}"]) for key, gguf in keys.items() if f"{name}.{gguf}" in metadata}
    # A head of its own cannot be told from a tied one here, and llama.cpp ignores an adapter of a tied one.
    return _BY_NAME[name], {**config, "tie_word_embeddings": True}


def write_lora(adapter: Path, architecture: Architecture, config: Config, out: Path, name: str | None = None) -> None:
    """As `write_lora_gguf`, for an architecture that is known."""
    from gguf import GGUFType, GGUFWriter

    try:
        parts = read_adapter(adapter)
    except ExportError as error:
        raise DataError(error.message, error.hint) from error
    alpha = max((p.scale * p.right.shape[0] for p in parts.values()), default=0.0)
    writer = GGUFWriter(out, architecture.name)
    try:
        writer.add_type(GGUFType.ADAPTER)
        writer.add_string("adapter.type", "lora")
        writer.add_float32("adapter.lora.alpha", alpha)
        writer.add_name(name or adapter.resolve().name)
        writer.add_quantization_version(_QUANTISATION_VERSION)
        for tensor, values in _tensors(adapter, parts, architecture, config, alpha):
            writer.add_tensor(tensor, values)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
    finally:
        writer.close()


def _tensors(
    adapter: Path, parts: Mapping[str, LowRank], architecture: Architecture, config: Config, alpha: float
) -> Iterator[tuple[str, NDArray[np.float32]]]:
    names = dict(architecture.modules(config))
    hyper = architecture.hyperparameters(config)
    for module, part in parts.items():
        if module not in names:
            raise DataError(
                f"The adapter {adapter} changes {module}, which a {architecture.name} model of "
                f"{hyper.integer('num_hidden_layers')} layers does not have or llama.cpp cannot adapt.",
                "Use an adapter with the model that it was trained on.",
            )
        own = part.scale * part.right.shape[0]
        left = part.left if math.isclose(own, alpha) else part.left * np.float32(own / alpha)
        yield f"{names[module]}.weight.lora_a", np.ascontiguousarray(part.right)
        yield (
            f"{names[module]}.weight.lora_b",
            np.ascontiguousarray(architecture.converted(f"{module}.weight", left, hyper)),
        )
