"""Qwen 3 (dense): Qwen 2 with a norm on each query and key head, and a head width of its own."""

from __future__ import annotations

from pudistill_llamacpp.convert.architectures.layout import (
    BLOCK,
    Architecture,
    activation_problem,
    first,
    head_width,
    rope_problem,
    sizes,
)
from pudistill_llamacpp.convert.hyperparameters import Entry, Hyperparameters
from pudistill_llamacpp.convert.rope import rope_of


def entries(hyper: Hyperparameters) -> list[Entry]:
    """What llama.cpp reads for `qwen3`."""
    return [*sizes(hyper), *head_width(hyper), *rope_of(hyper).entries()]


def problem(hyper: Hyperparameters) -> str | None:
    """llama.cpp knows no sliding window here, and no bias behind the attention."""
    return first(
        rope_problem(hyper),
        activation_problem(hyper, "silu"),
        "it uses a sliding window" if hyper.get("use_sliding_window") else None,
        "its attention has biases" if hyper.get("attention_bias") else None,
    )


ARCHITECTURE = Architecture(
    name="qwen3",
    model_type="qwen3",
    transformers_class="Qwen3ForCausalLM",
    entries=entries,
    problem=problem,
    defaults={"rms_norm_eps": 1e-6, "max_position_embeddings": 32768, "head_dim": 128},
    block=BLOCK | {"self_attn.q_norm": "attn_q_norm", "self_attn.k_norm": "attn_k_norm"},
)
