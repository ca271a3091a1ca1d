"""A checkpoint's tensors with a LoRA adapter added, read one at a time in float32, with no framework."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pudistill_cli.errors import DataError, ExportError
from pudistill_cli.models.checkpoint_files import read_json, weight_files
from pudistill_cli.models.peft_adapter import LowRank, read_adapter
from pudistill_cli.models.safetensors_io import FLOATS, StoredTensor, stored_tensors, to_float32


@dataclass(frozen=True, slots=True)
class MergedTensors:
    """The tensors of a checkpoint, and what an adapter adds to some of them."""

    config: Mapping[str, Any]
    """The checkpoint's config.json."""
    tensors: Mapping[str, StoredTensor]
    additions: Mapping[str, LowRank]
    """By tensor name."""

    @property
    def names(self) -> tuple[str, ...]:
        """In the order of the files."""
        return tuple(self.tensors)

    def shape(self, name: str) -> tuple[int, ...]:
        """Of a tensor."""
        return self.tensors[name].spec.shape

    def read(self, name: str) -> NDArray[np.float32]:
        """The float32 sum of a weight and its addition, whole.

        Raises:
            DataError: the tensor does not hold floats.
        """
        tensor = self.tensors[name]
        if tensor.spec.dtype not in FLOATS:
            raise DataError(
                f"{tensor.path}: tensor {name} is of type {tensor.spec.dtype}, not of floats.",
                "Use the 16-bit checkpoint that it was made from.",
            )
        weight = to_float32(tensor.read(), tensor.spec.dtype).reshape(tensor.spec.shape)
        addition = self.additions.get(name)
        return weight if addition is None else weight + addition.rows(0, tensor.spec.shape[0])


def merged_tensors(checkpoint: Path, adapter: Path | None = None) -> MergedTensors:
    """Open a checkpoint, and an adapter to add if there is one. Weights are not read yet.

    Raises:
        ExportError: the adapter is no plain LoRA or does not fit, or the checkpoint is quantised.
        DataError: the checkpoint cannot be read.
    """
    config = read_json(checkpoint / "config.json")
    if "quantization_config" in config:
        raise ExportError(
            f"{checkpoint} is quantised; weights are only merged into the original checkpoint.",
            "Name the 16-bit checkpoint that it was made from, or use --format adapter.",
        )
    tensors = {t.spec.name: t for path in weight_files(checkpoint) for t in stored_tensors(path)}
    additions = {} if adapter is None else _by_tensor_name(read_adapter(adapter), tensors, config)
    return MergedTensors(config, tensors, additions)


def _by_tensor_name(
    adapter: Mapping[str, LowRank], tensors: Mapping[str, StoredTensor], config: Mapping[str, Any]
) -> dict[str, LowRank]:
    """The additions by tensor name; every one must have its tensor."""
    additions: dict[str, LowRank] = {}
    for module, addition in adapter.items():
        # Some checkpoints leave out the name of the body ("transformer." in GPT-2's).
        names = [n for n in (f"{module}.weight", f"{module.partition('.')[2]}.weight") if n in tensors]
        if not names or tensors[names[0]].spec.shape != addition.shape or tensors[names[0]].spec.dtype not in FLOATS:
            actual = f"of shape {tensors[names[0]].spec.shape}" if names else "not there"
            raise ExportError(
                f"The adapter changes {module} by a matrix of shape {addition.shape}; its weight in the checkpoint is "
                f"{actual}.",
                "Merge an adapter only into the checkpoint that it was trained on.",
            )
        if names[0].endswith("lm_head.weight") and config.get("tie_word_embeddings"):
            raise ExportError(
                "The adapter changes the head, which this checkpoint shares with the embeddings.",
                "It cannot be merged; use --format adapter.",
            )
        additions[names[0]] = addition
    return additions
