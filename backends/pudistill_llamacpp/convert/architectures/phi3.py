"""Phi-3, Phi-3.5 and Phi-4 (dense): fused projections, and two sets of frequency factors for long contexts."""

from __future__ import annotations

import math

import numpy as np

from pudistill_llamacpp.convert.architectures.layout import (
    Architecture,
    Extra,
    activation_problem,
    first,
    sizes,
)
from pudistill_llamacpp.convert.hyperparameters import Entry, Hyperparameters, float32, uint32
from pudistill_llamacpp.convert.rope import rope_of

_BLOCK = {
    "input_layernorm": "attn_norm",
    "self_attn.qkv_proj": "attn_qkv",
    "self_attn.o_proj": "attn_output",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


def rotated_width(hyper: Hyperparameters) -> int:
    """How much of each head is rotated."""
    share = rope_of(hyper).settings.get("partial_rotary_factor") or 1.0
    return int(share * hyper.integer("hidden_size")) // hyper.heads


def original_context(hyper: Hyperparameters) -> int:
    """Tokens of the context before it was made longer."""
    given = rope_of(hyper).settings.get("original_max_position_embeddings")
    return int(given) if given else hyper.integer("original_max_position_embeddings")


def attention_factor(hyper: Hyperparameters) -> float:
    """What LongRoPE multiplies cos and sin by: sqrt(1 + ln(stretch) / ln(original context)) (Ding et al. 2024)."""
    settings = rope_of(hyper).settings
    if (given := settings.get("attention_factor")) is not None:
        return float(given)
    original = original_context(hyper)
    stretch = settings.get("factor") or hyper.integer("max_position_embeddings") / original
    return math.sqrt(1 + math.log(stretch) / math.log(original)) if stretch > 1 else 1.0


def entries(hyper: Hyperparameters) -> list[Entry]:
    """What llama.cpp reads for `phi3`. A window of 0 says that there is none, as in Phi-4."""
    metadata = [
        *sizes(hyper),
        *rope_of(hyper).entries(),
        uint32("{arch}.rope.dimension_count", rotated_width(hyper)),
        uint32("{arch}.rope.scaling.original_context_length", original_context(hyper)),
        uint32("{arch}.attention.sliding_window", hyper.get("sliding_window") or 0),
    ]
    if rope_of(hyper).kind == "longrope":
        metadata.append(float32("{arch}.rope.scaling.attn_factor", attention_factor(hyper)))
    return metadata


def problem(hyper: Hyperparameters) -> str | None:
    """llama.cpp expects heads that fill hidden_size, and factors for each rotated pair."""
    rope = rope_of(hyper)
    wrong = rope.problem(frozenset({"default", "longrope"}))
    if wrong is None and rope.kind == "longrope":
        lengths = {len(rope.settings.get(k) or ()) for k in ("long_factor", "short_factor")}
        if lengths != {rotated_width(hyper) // 2}:
            wrong = f"its RoPE has {lengths} factors for {rotated_width(hyper) // 2} pairs"
    return first(
        wrong,
        activation_problem(hyper, "silu"),
        None if hyper.head_dim * hyper.heads == hyper.integer("hidden_size") else "its heads do not fill hidden_size",
    )


def extra(hyper: Hyperparameters) -> Extra:
    """LongRoPE's divisors of the frequencies, for contexts beyond the original one and within it."""
    rope = rope_of(hyper)
    if rope.kind != "longrope":
        return {}
    return {
        "rope_factors_long.weight": np.asarray(rope.settings["long_factor"], dtype=np.float32),
        "rope_factors_short.weight": np.asarray(rope.settings["short_factor"], dtype=np.float32),
    }


ARCHITECTURE = Architecture(
    name="phi3",
    model_type="phi3",
    transformers_class="Phi3ForCausalLM",
    entries=entries,
    problem=problem,
    defaults={
        "rms_norm_eps": 1e-5,
        "max_position_embeddings": 4096,
        "original_max_position_embeddings": 4096,
    },
    block=_BLOCK,
    extra=extra,
)
