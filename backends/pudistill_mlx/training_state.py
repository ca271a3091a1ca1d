"""What a learner needs besides the adapter to go on as if never stopped: no pickle, exact to the bit."""

from __future__ import annotations

import json
from pathlib import Path

import mlx.core as mx
import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from pudistill_cli.errors import DataError
from pudistill_mlx.optimizer import Optimizer
from pudistill_mlx.policy import Arrays

TENSORS = "training_state.safetensors"
POSITION = "training_state.json"


def is_there(folder: Path) -> bool:
    """Whether the folder holds more than an adapter."""
    return (folder / POSITION).is_file()


def write(folder: Path, optimizer: Optimizer) -> None:
    """Write the moments as safetensors, the number of steps as JSON. Training draws no random numbers."""
    moments = {name: np.ascontiguousarray(np.array(moment)) for name, moment in optimizer.moments().items()}
    save_file(moments, folder / TENSORS)
    (folder / POSITION).write_text(json.dumps({"steps": optimizer.steps}) + "\n", encoding="utf-8")


def read(folder: Path, optimizer: Optimizer, policy: Arrays) -> None:
    """Fill a fresh optimizer of these arrays.

    Raises:
        DataError: a file is missing or broken, or is of another adapter.
    """
    try:
        moments = {name: mx.array(moment) for name, moment in load_file(folder / TENSORS).items()}
        steps = int(json.loads((folder / POSITION).read_text(encoding="utf-8"))["steps"])
        optimizer.set_moments(moments, policy, steps)
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        raise DataError(f"{folder} holds no whole training state: {error}", "Run the stage before it again.") from error
