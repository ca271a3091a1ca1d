"""Llama: SmolLM2, Llama 2, Llama 3.x (whose scaled frequencies are a tensor of factors) and what has their shape."""

from __future__ import annotations

from pudistill_llamacpp.convert.architectures.layout import (
    ROTATED,
    Architecture,
    Extra,
    activation_problem,
    first,
    head_width,
    sizes,
)
from pudistill_llamacpp.convert.hyperparameters import Entry, Hyperparameters, uint32
from pudistill_llamacpp.convert.rope import llama3_factors, rope_of

KINDS = frozenset({"default", "linear", "yarn", "llama3"})


def entries(hyper: Hyperparameters) -> list[Entry]:
    """What llama.cpp reads for `llama`."""
    return [
        *sizes(hyper),
        *head_width(hyper),
        *rope_of(hyper).entries(),
        uint32("{arch}.vocab_size", hyper.integer("vocab_size")),
        uint32("{arch}.rope.dimension_count", hyper.head_dim),
    ]


def problem(hyper: Hyperparameters) -> str | None:
    """Other RoPE scalings, another activation."""
    return first(rope_of(hyper).problem(KINDS), activation_problem(hyper, "silu"))


def extra(hyper: Hyperparameters) -> Extra:
    """The divisors of Llama 3.1's frequencies."""
    rope = rope_of(hyper)
    return {"rope_freqs.weight": llama3_factors(rope, hyper.head_dim)} if rope.kind == "llama3" else {}


ARCHITECTURE = Architecture(
    name="llama",
    model_type="llama",
    transformers_class="LlamaForCausalLM",
    entries=entries,
    problem=problem,
    defaults={"rms_norm_eps": 1e-6, "max_position_embeddings": 2048},
    permuted=ROTATED,
    extra=extra,
)
