"""Adam's moments as arrays, and back: what a learner is resumed from.

Training draws no random numbers: what draws them is seeded by itself (`Model.new_policy`), so no generator is kept.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from numpy.typing import NDArray

MOMENTS = ("exp_avg", "exp_avg_sq")


def arrays_of(optimizer: torch.optim.AdamW) -> dict[str, NDArray[Any]]:
    """The moments of every parameter that was updated, by its number."""
    return {
        f"{i}.{name}": optimizer.state[parameter][name].cpu().numpy()
        for i, parameter in enumerate(optimizer.param_groups[0]["params"])
        if parameter in optimizer.state
        for name in MOMENTS
    }


def restore(optimizer: torch.optim.AdamW, arrays: Mapping[str, NDArray[Any]], steps: int) -> None:
    """Fill a fresh optimizer that goes on behind `steps` updates.

    Raises:
        KeyError: the moments of a parameter are missing.
        ValueError: they have another shape.
    """
    parameters = optimizer.param_groups[0]["params"]
    device = parameters[0].device
    for i, parameter in enumerate(parameters if steps else ()):
        moments = {name: torch.tensor(arrays[f"{i}.{name}"], device=device) for name in MOMENTS}
        if any(moment.shape != parameter.shape for moment in moments.values()):
            raise ValueError(f"the moments of parameter {i} have another shape")
        optimizer.state[parameter] = {"step": torch.tensor(float(steps), device=device), **moments}
