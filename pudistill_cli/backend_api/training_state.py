"""What a learner needs besides the adapter to go on as if never stopped: no pickle, exact to the bit."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file  # pyright: ignore[reportUnknownVariableType]

from pudistill_cli.errors import DataError

TENSORS = "training_state.safetensors"
POSITION = "training_state.json"
SAVE_EVERY_SECONDS = 60.0
"""Between two savings of what a stage has done: so much of it may a process that ends lose."""

Arrays = Mapping[str, NDArray[Any]]


def is_there(folder: Path) -> bool:
    """Whether the folder holds more than an adapter."""
    return (folder / POSITION).is_file()


def write(folder: Path, arrays: Arrays, steps: int) -> None:
    """Write the optimizer's moments as safetensors, the number of steps as JSON. Training draws no random numbers."""
    save_file({name: np.ascontiguousarray(array) for name, array in arrays.items()}, folder / TENSORS)
    (folder / POSITION).write_text(json.dumps({"steps": steps}) + "\n", encoding="utf-8")


def read(folder: Path, use: Callable[[Arrays, int], None]) -> int:
    """Give `use` the arrays and the number of steps, which is returned.

    Raises:
        DataError: a file is missing or broken, or `use` cannot take what is in it.
    """
    try:
        arrays = load_file(folder / TENSORS)
        steps = int(json.loads((folder / POSITION).read_text(encoding="utf-8"))["steps"])
        use(arrays, steps)
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, SafetensorError) as error:
        raise DataError(f"{folder} holds no whole training state: {error}", "Run the stage before it again.") from error
    return steps
