"""The layers that an adapter is on: linear ones in the blocks, of a mixture of experts those of its attention alone."""

from __future__ import annotations

from typing import Any

from torch import nn
from transformers.pytorch_utils import Conv1D

_EXPERTS = "experts"
_ATTENTION = ("attn", "attention")


def adapted_layers(causal: Any) -> dict[str, Any]:
    """The layers by name, the output embedding left out.

    transformers fuses the experts of a layer into one tensor, of which peft can train an addition that no merge and no
    other runtime has a place for; so they stay as they are.
    """
    head = causal.get_output_embeddings()
    linear = {
        name: module
        for name, module in causal.named_modules()
        if isinstance(module, nn.Linear | Conv1D) and module is not head
    }
    if not has_experts(causal):
        return linear
    return {name: module for name, module in linear.items() if any(word in name for word in _ATTENTION)}


def has_experts(causal: Any) -> bool:
    """Whether it is a mixture of experts."""
    return any(name.rpartition(".")[2] == _EXPERTS for name, _ in causal.named_modules())


def target_modules(causal: Any) -> str | list[str]:
    """What peft is told of them."""
    if not has_experts(causal):
        return "all-linear"  # peft leaves the output embedding out
    return sorted({name.rpartition(".")[2] for name in adapted_layers(causal)})
