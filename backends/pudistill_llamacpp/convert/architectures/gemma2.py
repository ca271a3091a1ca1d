"""Gemma 2: norms before and after each part, soft-capped logits, a sliding window on every other layer."""

from __future__ import annotations

from collections.abc import Sequence

from pudistill_llamacpp.convert.architectures.layout import (
    BLOCK,
    Architecture,
    activation_problem,
    first,
    head_width,
    sizes,
)
from pudistill_llamacpp.convert.hyperparameters import Entry, Hyperparameters, float32, uint32
from pudistill_llamacpp.convert.rope import rope_of

GEMMA_BLOCK = BLOCK | {
    "post_attention_layernorm": "post_attention_norm",
    "pre_feedforward_layernorm": "ffn_norm",
    "post_feedforward_layernorm": "post_ffw_norm",
}
_DEFAULTS = {
    "rms_norm_eps": 1e-6,
    "max_position_embeddings": 8192,
    "head_dim": 256,
    "query_pre_attn_scalar": 256,
    "sliding_window": 4096,
    "attn_logit_softcapping": 50.0,
    "final_logit_softcapping": 30.0,
}
_27B = 46
"""Layers of the 27B model, whose attention llama.cpp scales by hidden_size / heads."""


def entries(hyper: Hyperparameters) -> list[Entry]:
    """What llama.cpp reads for `gemma2`; its RoPE is always the default one."""
    return [
        *sizes(hyper),
        *head_width(hyper),
        float32("{arch}.attn_logit_softcapping", hyper.number("attn_logit_softcapping")),
        float32("{arch}.final_logit_softcapping", hyper.number("final_logit_softcapping")),
        uint32("{arch}.attention.sliding_window", hyper.integer("sliding_window")),
    ]


def problem(hyper: Hyperparameters) -> str | None:
    """llama.cpp fixes the scale of the attention, theta, which layers slide, and the head."""
    rope = rope_of(hyper)
    return first(
        rope.problem(frozenset({"default"})),
        None if rope.theta == 10000.0 else f"its RoPE base is {rope.theta}",
        activation_problem(hyper, "gelu_pytorch_tanh", key="hidden_activation"),
        scale_problem(hyper, _27B),
        pattern_problem(hyper, 2),
        "its head is not the embeddings" if hyper.get("tie_word_embeddings") is False else None,
    )


def scale_problem(hyper: Hyperparameters, layers_of_27b: int) -> str | None:
    """llama.cpp scales queries by head_dim ** -0.5; in the 27B model, by (hidden_size / heads) ** -0.5."""
    big = hyper.integer("num_hidden_layers") == layers_of_27b
    expected = hyper.integer("hidden_size") // hyper.heads if big else hyper.head_dim
    scalar = hyper.number("query_pre_attn_scalar")
    return None if scalar == expected else f"its query_pre_attn_scalar is {scalar:g}, not {expected}"


def pattern_problem(hyper: Hyperparameters, every: int) -> str | None:
    """Every `every`-th layer must attend to everything, all others to the window."""
    layers: Sequence[str] = hyper.get("layer_types") or []
    expected = ["sliding_attention" if (n + 1) % every else "full_attention" for n in range(len(layers))]
    return None if list(layers) == expected else f"not every {every}th layer, and only these, has full attention"


ARCHITECTURE = Architecture(
    name="gemma2",
    model_type="gemma2",
    transformers_class="Gemma2ForCausalLM",
    entries=entries,
    problem=problem,
    defaults=_DEFAULTS,
    block=GEMMA_BLOCK,
    norm_offset=1.0,
    tied=True,
)
