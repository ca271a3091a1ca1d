"""Qwen 1.5, 2 and 2.5: Llama with biases on q, k and v, and rows as transformers has them."""

from __future__ import annotations

from pudistill_llamacpp.convert.architectures.layout import (
    Architecture,
    activation_problem,
    first,
    rope_problem,
    sizes,
)
from pudistill_llamacpp.convert.hyperparameters import Entry, Hyperparameters
from pudistill_llamacpp.convert.rope import rope_of


def entries(hyper: Hyperparameters) -> list[Entry]:
    """What llama.cpp reads for `qwen2`."""
    return [*sizes(hyper), *rope_of(hyper).entries()]


def problem(hyper: Hyperparameters) -> str | None:
    """llama.cpp knows no sliding window here, and expects heads that fill hidden_size."""
    return first(
        rope_problem(hyper),
        activation_problem(hyper, "silu"),
        "it uses a sliding window" if hyper.get("use_sliding_window") else None,
        None if hyper.head_dim * hyper.heads == hyper.integer("hidden_size") else "its heads do not fill hidden_size",
    )


ARCHITECTURE = Architecture(
    name="qwen2",
    model_type="qwen2",
    transformers_class="Qwen2ForCausalLM",
    entries=entries,
    problem=problem,
    defaults={"rms_norm_eps": 1e-6, "max_position_embeddings": 32768},
)
