"""The few operations that NumPy, torch and mlx.core spell differently; the caller passes its module in."""

from __future__ import annotations

from typing import Any

MASKED = -1e30
"""A logit of something that cannot happen: finite, so that 0 * MASKED is 0 and no NaN enters a gradient."""


def stop_gradient(xp: Any, x: Any) -> Any:
    """`x` as a constant."""
    if xp.__name__ == "torch":
        return x.detach()
    if xp.__name__ == "mlx.core":
        return xp.stop_gradient(x)
    return x


def amax(xp: Any, x: Any) -> Any:
    """Maximum over the last axis, which is kept: (..., N) -> (..., 1)."""
    if xp.__name__ == "torch":
        return xp.amax(x, dim=-1, keepdim=True)
    return xp.max(x, axis=-1, keepdims=True)


def logsumexp(xp: Any, x: Any) -> Any:
    """log sum exp over the last axis, which is kept: (..., N) -> (..., 1)."""
    peak = stop_gradient(xp, amax(xp, x))
    return peak + xp.log(xp.sum(xp.exp(x - peak), axis=-1, keepdims=True))


def log_softmax(xp: Any, x: Any) -> Any:
    """log softmax over the last axis: (..., N) -> (..., N)."""
    return x - logsumexp(xp, x)


def softplus(xp: Any, x: Any) -> Any:
    """log(1 + exp x), which is -log sigmoid(-x)."""
    return xp.logaddexp(xp.zeros_like(x), x)
