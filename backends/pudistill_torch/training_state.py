"""What a learner needs besides the adapter to go on as if never stopped: no pickle, exact to the bit."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from pudistill_cli.errors import DataError

TENSORS = "training_state.safetensors"
POSITION = "training_state.json"
MOMENTS = ("exp_avg", "exp_avg_sq")


def is_there(folder: Path) -> bool:
    """Whether the folder holds more than an adapter."""
    return (folder / POSITION).is_file()


def write(folder: Path, optimizer: torch.optim.AdamW, steps: int) -> None:
    """Write moments and torch's RNG as safetensors, the number of steps as JSON."""
    parameters = optimizer.param_groups[0]["params"]
    tensors = {"rng": torch.get_rng_state()}
    if (device := parameters[0].device).type == "cuda":
        tensors["rng.cuda"] = torch.cuda.get_rng_state(device)
    for i, parameter in enumerate(parameters):
        for name in MOMENTS if parameter in optimizer.state else ():
            tensors[f"{i}.{name}"] = optimizer.state[parameter][name].cpu()
    save_file(tensors, folder / TENSORS)
    (folder / POSITION).write_text(json.dumps({"steps": steps}) + "\n")


def read(folder: Path, optimizer: torch.optim.AdamW) -> int:
    """Fill a fresh optimizer, set torch's RNG and return the number of steps.

    Raises:
        DataError: a file is missing or broken.
    """
    parameters = optimizer.param_groups[0]["params"]
    try:
        tensors = load_file(folder / TENSORS)
        steps = int(json.loads((folder / POSITION).read_text())["steps"])
        torch.set_rng_state(tensors["rng"])
        if "rng.cuda" in tensors and (device := parameters[0].device).type == "cuda":
            torch.cuda.set_rng_state(tensors["rng.cuda"], device)
        if steps:
            for i, parameter in enumerate(parameters):
                moments = {name: tensors[f"{i}.{name}"].to(parameter.device) for name in MOMENTS}
                step = torch.tensor(float(steps), device=parameter.device)
                optimizer.state[parameter] = {"step": step, **moments}
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        raise DataError(f"{folder} holds no whole training state: {error}", "Run the stage before it again.") from error
    return steps
