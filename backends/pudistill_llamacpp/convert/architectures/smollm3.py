"""SmolLM3: Llama without positions on every fourth layer, the one step that llama.cpp knows."""

from __future__ import annotations

from dataclasses import replace

from pudistill_llamacpp.convert.architectures import llama
from pudistill_llamacpp.convert.architectures.layout import activation_problem, first, rope_problem
from pudistill_llamacpp.convert.hyperparameters import Hyperparameters

_STEP = 4


def problem(hyper: Hyperparameters) -> str | None:
    """Which layers rotate, and what llama.cpp's graph for it leaves out: windows and biases."""
    layers = hyper.integer("num_hidden_layers")
    interval = hyper.get("no_rope_layer_interval") or _STEP
    given = hyper.get("no_rope_layers") or [int((n + 1) % interval != 0) for n in range(layers)]
    expected = [int((n + 1) % _STEP != 0) for n in range(layers)]
    return first(
        rope_problem(hyper),
        activation_problem(hyper, "silu"),
        None if given == expected else f"not every {_STEP}th layer, and only these, is without RoPE",
        "it uses a sliding window" if hyper.get("use_sliding_window") else None,
        "it has biases" if hyper.get("attention_bias") or hyper.get("mlp_bias") else None,
    )


ARCHITECTURE = replace(
    llama.ARCHITECTURE,
    name="smollm3",
    model_type="smollm3",
    transformers_class="SmolLM3ForCausalLM",
    problem=problem,
    defaults={"rms_norm_eps": 1e-6, "max_position_embeddings": 32768, "rope_theta": 2_000_000.0},
    tied=True,
)
