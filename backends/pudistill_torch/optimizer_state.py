"""Adam's moments and torch's random number generators as arrays, and back: what a learner is resumed from."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from numpy.typing import NDArray

MOMENTS = ("exp_avg", "exp_avg_sq")


def arrays_of(optimizer: torch.optim.AdamW) -> dict[str, NDArray[Any]]:
    """The moments of every parameter that was updated, by its number, and the state of the generators."""
    parameters = optimizer.param_groups[0]["params"]
    tensors = {"rng": torch.get_rng_state()}
    if (device := parameters[0].device).type == "cuda":
        tensors["rng.cuda"] = torch.cuda.get_rng_state(device)
    for i, parameter in enumerate(parameters):
        for name in MOMENTS if parameter in optimizer.state else ():
            tensors[f"{i}.{name}"] = optimizer.state[parameter][name].cpu()
    return {name: tensor.numpy() for name, tensor in tensors.items()}


def restore(optimizer: torch.optim.AdamW, arrays: Mapping[str, NDArray[Any]], steps: int) -> None:
    """Fill a fresh optimizer that goes on behind `steps` updates, and set torch's generators.

    Raises:
        KeyError: the moments of a parameter are missing.
        RuntimeError: what is there is no state of a generator.
    """
    parameters = optimizer.param_groups[0]["params"]
    device = parameters[0].device
    torch.set_rng_state(torch.tensor(arrays["rng"]))
    if "rng.cuda" in arrays and device.type == "cuda":
        torch.cuda.set_rng_state(torch.tensor(arrays["rng.cuda"]), device)
    for i, parameter in enumerate(parameters if steps else ()):
        moments = {name: torch.tensor(arrays[f"{i}.{name}"], device=device) for name in MOMENTS}
        optimizer.state[parameter] = {"step": torch.tensor(float(steps), device=device), **moments}
