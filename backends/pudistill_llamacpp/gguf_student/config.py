"""A GGUF file's metadata as transformers' config.json, by the table that also writes such files.

What is read here is written again by the architecture's own `entries` and compared key by key, so that a setting that
is not understood is refused instead of lost.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from pudistill_cli.errors import DataError
from pudistill_llamacpp.convert.architectures import ARCHITECTURES
from pudistill_llamacpp.convert.architectures.layout import Architecture
from pudistill_llamacpp.gguf_file.header import Header, Scalar
from pudistill_llamacpp.gguf_student.rope import rope_parameters

EMBEDDINGS = "token_embd.weight"
HEAD = "output.weight"

_NEEDED = {
    "num_hidden_layers": "block_count",
    "max_position_embeddings": "context_length",
    "hidden_size": "embedding_length",
    "intermediate_size": "feed_forward_length",
    "num_attention_heads": "attention.head_count",
    "rms_norm_eps": "attention.layer_norm_rms_epsilon",
}
_OPTIONAL = {
    "num_key_value_heads": "attention.head_count_kv",
    "sliding_window": "attention.sliding_window",
    "attn_logit_softcapping": "attn_logit_softcapping",
    "final_logit_softcapping": "final_logit_softcapping",
}
_SPECIAL = {
    "bos_token_id": "tokenizer.ggml.bos_token_id",
    "eos_token_id": "tokenizer.ggml.eos_token_id",
    "pad_token_id": "tokenizer.ggml.padding_token_id",
}
_IMPLIED = frozenset(
    {"vocab_size", "rope.dimension_count", "attention.key_length", "attention.value_length", "rope.scaling.finetuned"}
)
"""Keys that some files have and the architecture's own entries need not repeat."""


def architecture_of(header: Header) -> Architecture:
    """What llama.cpp's name stands for. Mistral is Llama there, and Llama is what it becomes.

    Raises:
        DataError: it is not one of those that are read.
    """
    named = [a for a in ARCHITECTURES.values() if a.name == header.architecture]
    if not named:
        known = sorted({a.name for a in ARCHITECTURES.values()})
        raise DataError(
            f"{header.path} is of llama.cpp's architecture {header.architecture!r}, which cannot be trained here.",
            f"GGUF students can be: {', '.join(known)}. Or give the checkpoint that it was made from.",
        )
    return named[0]


def config_of(header: Header) -> dict[str, Any]:
    """config.json of the checkpoint that the file was made from, as far as a model's output depends on it.

    Raises:
        DataError: the architecture is not one that is read, or the file has a setting that it should not have.
    """
    architecture = architecture_of(header)
    get = _settings(header)
    missing = [key for key in _NEEDED.values() if key not in get]
    if missing or EMBEDDINGS not in header.tensors:
        raise _refused(header, f"it does not say its {missing[0] if missing else EMBEDDINGS}")
    config: dict[str, Any] = {
        "architectures": [architecture.transformers_class],
        "model_type": architecture.model_type,
        "dtype": "float32",
        "vocab_size": header.tensors[EMBEDDINGS].shape[0],
        "tie_word_embeddings": HEAD not in header.tensors,
        **{name: get[key] for name, key in (_NEEDED | _OPTIONAL).items() if key in get},
        **{name: header.metadata[key] for name, key in _SPECIAL.items() if key in header.metadata},
    }
    heads = int(config["num_attention_heads"])
    config.setdefault("num_key_value_heads", heads)
    config["head_dim"] = int(
        get["attention.key_length"] if "attention.key_length" in get else config["hidden_size"] // heads
    )
    config["rope_parameters"] = rope_parameters(header, get, config["head_dim"])
    config |= _of_family(architecture, header, get, config)
    _verify(architecture, header, config)
    return config


def _settings(header: Header) -> dict[str, Scalar]:
    """The architecture's own keys without its name; a float32 as the shortest decimal that is it."""
    prefix = header.architecture + "."
    return {
        key.removeprefix(prefix): float(str(np.float32(value))) if isinstance(value, float) else value
        for key, value in header.metadata.items()
        if key.startswith(prefix)
    }


def _of_family(
    architecture: Architecture, header: Header, get: Mapping[str, Scalar], config: Mapping[str, Any]
) -> dict[str, Any]:
    """What only some architectures' configs say."""
    if architecture.name == "llama":
        return {
            "attention_bias": "blk.0.attn_q.bias" in header.tensors,
            "mlp_bias": "blk.0.ffn_up.bias" in header.tensors,
        }
    if architecture.name.startswith("gemma"):
        full = {"hidden_activation": "gelu_pytorch_tanh", "query_pre_attn_scalar": config["head_dim"]}
        if architecture.problem(architecture.hyperparameters({**config, **full})) is None:
            return full
        return full | {"query_pre_attn_scalar": config["hidden_size"] // config["num_attention_heads"]}
    if architecture.name == "phi3":
        width = config["hidden_size"] // config["num_attention_heads"]
        share = float(get.get("rope.dimension_count", width)) / width
        original = get.get("rope.scaling.original_context_length", config["max_position_embeddings"])
        rope = {**config["rope_parameters"], "partial_rotary_factor": share}
        if rope["rope_type"] == "longrope":
            rope["original_max_position_embeddings"] = original
        return {
            "rope_parameters": rope,
            "original_max_position_embeddings": original,
            "sliding_window": config.get("sliding_window") or None,
        }
    return {}


def _verify(architecture: Architecture, header: Header, config: Mapping[str, Any]) -> None:
    """Write the metadata again and compare; what the file says beyond that must mean nothing."""
    hyper = architecture.hyperparameters(config)
    problem = architecture.problem(hyper)
    if problem is not None:
        raise _refused(header, problem)
    written = {entry.key.format(arch=architecture.name): entry.value for entry in architecture.entries(hyper)}
    prefix = architecture.name + "."
    for key in sorted(k for k in header.arrays if k.startswith(prefix)):
        raise _refused(header, f"{key} is a list")
    for key, value in header.metadata.items():
        if not key.startswith(prefix):
            continue
        if key in written:
            same = np.float32(written[key]) == np.float32(value) if isinstance(value, float) else written[key] == value
            if not same:
                raise _refused(header, f"{key} is {value}, where {written[key]} was expected")
        elif value and key.removeprefix(prefix) not in _IMPLIED:
            raise _refused(header, f"it sets {key} to {value}, which is not known here")


def _refused(header: Header, reason: str) -> DataError:
    return DataError(
        f"{header.path} cannot be the student: {reason}.", "Give the checkpoint that it was made from instead."
    )
