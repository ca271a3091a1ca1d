"""What a converter must know of an architecture, as data: names, hyper-parameters, changed values, what is refused."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pudistill_llamacpp.convert.hyperparameters import Entry, Hyperparameters, float32, uint32
from pudistill_llamacpp.convert.rope import rope_of

BODY = {"model.embed_tokens": "token_embd", "model.norm": "output_norm"}
"""Modules outside of the blocks, by their names in transformers."""
HEAD = ("lm_head", "output")
BLOCK = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
"""Modules of a block (`model.layers.N.` before, `blk.N.` here) of most architectures."""
ROTATED = {"self_attn.q_proj": "heads", "self_attn.k_proj": "kv_heads"}
_IGNORED = ".rotary_emb.inv_freq"
"""A buffer that old checkpoints carry."""

Extra = Mapping[str, NDArray[np.float32]]


def _no_extra(hyper: Hyperparameters) -> Extra:
    return {}


def rope_problem(hyper: Hyperparameters) -> str | None:
    """The scalings that llama.cpp computes for every architecture."""
    return rope_of(hyper).problem(frozenset({"default", "linear", "yarn"}))


@dataclass(frozen=True, slots=True)
class Architecture:
    """One architecture. What it does not say is as in Llama without the permutation."""

    name: str
    """llama.cpp's, which prefixes its metadata keys."""
    model_type: str
    """transformers'."""
    transformers_class: str
    entries: Callable[[Hyperparameters], list[Entry]]
    """The metadata of its hyper-parameters."""
    problem: Callable[[Hyperparameters], str | None] = rope_problem
    """What llama.cpp would compute differently, as the end of "... cannot be written as GGUF: "."""
    defaults: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """Of transformers' config class, where leaving them out is seen in the wild."""
    block: Mapping[str, str] = field(default_factory=lambda: BLOCK)
    permuted: Mapping[str, str] = field(default_factory=dict[str, str])
    """Modules whose rows are in another order, and the property that counts their heads."""
    norm_offset: float = 0.0
    """Added to the weights of norms: Gemma computes x * (1 + w), llama.cpp x * w."""
    tied: bool = False
    """Head and embeddings are one matrix unless the config says otherwise (transformers' default)."""
    extra: Callable[[Hyperparameters], Extra] = _no_extra
    """Tensors that the checkpoint does not have, such as frequency factors."""

    def hyperparameters(self, config: Mapping[str, Any]) -> Hyperparameters:
        """config.json over this architecture's defaults."""
        return Hyperparameters(config, self.defaults)

    def is_tied(self, config: Mapping[str, Any]) -> bool:
        """Whether the embeddings are the head."""
        given = config.get("tie_word_embeddings")
        return self.tied if given is None else bool(given)

    def modules(self, config: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
        """(transformers' name, GGUF's name) of every module with weights, without ".weight" and ".bias"."""
        yield from BODY.items()
        if not self.is_tied(config):
            yield HEAD
        for n in range(self.hyperparameters(config).integer("num_hidden_layers")):
            yield from ((f"model.layers.{n}.{old}", f"blk.{n}.{new}") for old, new in self.block.items())

    def converted(self, name: str, values: NDArray[np.float32], hyper: Hyperparameters) -> NDArray[np.float32]:
        """A tensor's values (or a LoRA B matrix of it) as llama.cpp wants them, by transformers' name."""
        module = name.rpartition(".")[0]
        if self.norm_offset and module.endswith("norm"):
            return values + np.float32(self.norm_offset)
        for suffix, heads in self.permuted.items():
            if module.endswith(suffix):
                return permuted_rows(values, getattr(hyper, heads))
        return values


def permuted_rows(values: NDArray[np.float32], heads: int) -> NDArray[np.float32]:
    """Rows of q or k, (heads * width, ...), for llama.cpp's RoPE, which turns neighbours.

    transformers turns row i of a head with row i + width / 2; here they become rows 2i and 2i + 1.
    """
    split = values.reshape(heads, 2, values.shape[0] // heads // 2, *values.shape[1:])
    return np.ascontiguousarray(split.swapaxes(1, 2)).reshape(values.shape)


def original_rows(values: NDArray[np.float32], heads: int) -> NDArray[np.float32]:
    """Undo `permuted_rows`."""
    split = values.reshape(heads, values.shape[0] // heads // 2, 2, *values.shape[1:])
    return np.ascontiguousarray(split.swapaxes(1, 2)).reshape(values.shape)


def is_ignored(name: str) -> bool:
    """Whether a tensor is a buffer that is computed anew."""
    return name.endswith(_IGNORED)


# --- metadata that architectures share ---


def sizes(hyper: Hyperparameters) -> list[Entry]:
    """Depth, width, heads, context and norm."""
    return [
        uint32("{arch}.block_count", hyper.integer("num_hidden_layers")),
        uint32("{arch}.context_length", hyper.integer("max_position_embeddings")),
        uint32("{arch}.embedding_length", hyper.integer("hidden_size")),
        uint32("{arch}.feed_forward_length", hyper.integer("intermediate_size")),
        uint32("{arch}.attention.head_count", hyper.heads),
        uint32("{arch}.attention.head_count_kv", hyper.kv_heads),
        float32("{arch}.attention.layer_norm_rms_epsilon", hyper.number("rms_norm_eps")),
    ]


def head_width(hyper: Hyperparameters) -> list[Entry]:
    """For architectures whose heads need not fill hidden_size."""
    return [
        uint32("{arch}.attention.key_length", hyper.head_dim),
        uint32("{arch}.attention.value_length", hyper.head_dim),
    ]


def activation_problem(hyper: Hyperparameters, *known: str, key: str = "hidden_act") -> str | None:
    """The feed-forward part's activation must be one of `known`; none given is transformers' default."""
    value = hyper.get(key)
    return None if value is None or value in known else f"its activation is {value}"


def first(*problems: str | None) -> str | None:
    """The first problem that is one."""
    return next((p for p in problems if p is not None), None)
