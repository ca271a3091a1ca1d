"""Drawing tokens on the device: `pudistill_cli.method.sampling.draw`, its sum in two levels."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import pad

from pudistill_cli.types import Sampling

BLOCK = 256
"""Tokens summed before the cumulative sum: it then runs over V / 256 numbers and once over 256."""


def draw(logits: Tensor, u: Tensor, sampling: Sampling) -> tuple[Tensor, Tensor]:
    """(B, V) logits and (B,) float64 uniform numbers -> (B,) ids and (B,) float32 log-probs.

    Inverse CDF, summed in float64 in token-id order, after temperature, top-k and top-p in this order.
    Temperature 0 is greedy; the log-prob is then the model's own.
    """
    exact = logits.double()
    if sampling.temperature == 0:
        tokens = exact.argmax(-1)
        return tokens, (_at(exact, tokens) - exact.logsumexp(-1)).float()
    kept = _top_p(_top_k(exact / sampling.temperature, sampling.top_k), sampling.top_p)
    weights = (kept - kept.amax(-1, keepdim=True)).exp_()  # (B, V)
    blocks = pad(weights, (0, -weights.shape[-1] % BLOCK)).unflatten(-1, (-1, BLOCK))  # (B, V / 256, 256)

    outer = blocks.sum(-1).cumsum(-1)
    target = u * outer[:, -1]
    block = _first_above(outer, target)
    before = _at(pad(outer, (1, 0)), block)
    inner = blocks[torch.arange(len(block), device=block.device), block].cumsum(-1)  # (B, 256)
    tokens = block * BLOCK + _first_above(inner, target - before)
    return tokens, (_at(weights, tokens) / outer[:, -1]).log().float()


def _first_above(cdf: Tensor, target: Tensor) -> Tensor:
    """Index of the first entry above the target, but none behind the last of positive weight."""
    last = (cdf >= cdf[:, -1:]).int().argmax(-1)
    return torch.minimum((cdf <= target[:, None]).sum(-1), last)


def _at(values: Tensor, index: Tensor) -> Tensor:
    return values.gather(-1, index[:, None])[:, 0]


def _top_k(logits: Tensor, k: int) -> Tensor:
    """Keep the k largest logits and whatever ties with the last of them."""
    if k <= 0 or k >= logits.shape[-1]:
        return logits
    least = logits.topk(k, dim=-1).values[:, -1:]
    return logits.masked_fill(logits < least, -torch.inf)


def _top_p(logits: Tensor, p: float) -> Tensor:
    """Keep the fewest likeliest tokens whose mass reaches p, ties by token id."""
    if p >= 1:
        return logits
    ordered, order = logits.sort(dim=-1, descending=True, stable=True)
    probabilities = ordered.softmax(-1)
    out = probabilities.cumsum(-1) - probabilities >= p  # the mass of the likelier tokens
    return logits.masked_fill(torch.zeros_like(out).scatter(-1, order, out), -torch.inf)
