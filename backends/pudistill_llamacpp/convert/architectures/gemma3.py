"""Gemma 3, text only: Gemma 2 with norms on queries and keys, no soft cap, a window on five layers of six."""

from __future__ import annotations

from pudistill_llamacpp.convert.architectures.gemma2 import GEMMA_BLOCK, pattern_problem, scale_problem
from pudistill_llamacpp.convert.architectures.layout import (
    Architecture,
    activation_problem,
    first,
    head_width,
    sizes,
)
from pudistill_llamacpp.convert.hyperparameters import Entry, Hyperparameters, float32, uint32
from pudistill_llamacpp.convert.rope import rope_of

_DEFAULTS = {
    "rms_norm_eps": 1e-6,
    "max_position_embeddings": 131072,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "head_dim": 256,
    "query_pre_attn_scalar": 256,
    "sliding_window": 4096,
    "rope_theta": 1_000_000.0,
    "rope_local_base_freq": 10000.0,
}
_27B = 62


def entries(hyper: Hyperparameters) -> list[Entry]:
    """What llama.cpp reads for `gemma3`."""
    cap = hyper.get("final_logit_softcapping")
    return [
        *sizes(hyper),
        *head_width(hyper),
        *rope_of(hyper).entries(),
        float32("{arch}.rope.freq_base_swa", rope_of(hyper, "sliding_attention").theta),
        uint32("{arch}.attention.sliding_window", hyper.integer("sliding_window")),
        *([float32("{arch}.final_logit_softcapping", cap)] if cap else []),
    ]


def problem(hyper: Hyperparameters) -> str | None:
    """llama.cpp fixes the scale of the attention and which layers slide, and has no soft cap inside the attention."""
    return first(
        rope_of(hyper).problem(frozenset({"default", "linear"})),
        rope_of(hyper, "sliding_attention").problem(frozenset({"default"})),
        activation_problem(hyper, "gelu_pytorch_tanh", key="hidden_activation"),
        scale_problem(hyper, _27B),
        pattern_problem(hyper, 6),
        "its attention logits are soft-capped" if hyper.get("attn_logit_softcapping") else None,
        "its attention is bidirectional" if hyper.get("use_bidirectional_attention") else None,
    )


ARCHITECTURE = Architecture(
    name="gemma3",
    model_type="gemma3_text",
    transformers_class="Gemma3ForCausalLM",
    entries=entries,
    problem=problem,
    defaults=_DEFAULTS,
    block=GEMMA_BLOCK | {"self_attn.q_norm": "attn_q_norm", "self_attn.k_norm": "attn_k_norm"},
    norm_offset=1.0,
    tied=True,
)
