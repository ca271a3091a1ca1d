"""Attention that decodes fast: on a CPU, query heads that share keys are the rows of one head, five times as fast."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

NAME = "pudistill_packed_sdpa"


def use_fast_attention(model: Any) -> None:
    """Let a model that runs on a CPU with sdpa decode through `packed_attention`; on a card, do without cuDNN.

    cuDNN's attention makes a plan for each new shape, and a step of decoding has another one than the step before.
    """
    if model.device.type == "cuda":
        torch.backends.cuda.enable_cudnn_sdp(False)
    if model.device.type == "cpu" and model.config._attn_implementation == "sdpa":
        AttentionInterface.register(NAME, packed_attention)
        AttentionMaskInterface.register(NAME, sdpa_mask)
        model.set_attn_implementation(NAME)


def packed_attention(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **kwargs: Any
) -> tuple[Tensor, None]:
    """(B, H, L, D) queries, (B, H / R, C, D) keys and values -> (B, L, H, D).

    transformers packs the heads itself when there is a mask, and asks torch for grouped attention when there
    is none, which is slow on a CPU.
    """
    batch, heads, length, width = query.shape
    groups = heads // key.shape[1]
    if length > 1 or groups == 1 or attention_mask is not None or kwargs.get("position_bias") is not None:
        return sdpa_attention_forward(module, query, key, value, attention_mask, **kwargs)
    packed = query.reshape(batch, heads // groups, groups, width)
    output = scaled_dot_product_attention(packed, key, value, scale=kwargs.get("scaling"))
    return output.reshape(batch, 1, heads, -1), None
