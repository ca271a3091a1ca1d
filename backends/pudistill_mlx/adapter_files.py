"""Adapters in PEFT's format, read and written without PEFT."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import mlx.core as mx
import numpy as np
from safetensors.numpy import save_file

from pudistill_cli.errors import DataError, ExportError
from pudistill_cli.models.peft_adapter import CONFIG, WEIGHTS
from pudistill_cli.models.peft_adapter import read_adapter as read_low_rank
from pudistill_mlx.lora import LowRank, LowRanks

_PREFIX = "base_model.model."


def read_adapter(folder: Path, shapes: Mapping[str, tuple[int, int]]) -> LowRanks:
    """An adapter of the layers with these (out, in) shapes.

    Raises:
        DataError: it is no whole LoRA adapter, or another model's.
    """
    try:
        low_ranks = read_low_rank(folder)
    except ExportError as error:
        raise DataError(error.message, "An adapter is a folder that a run wrote; run its stage again.") from error
    strange = [name for name in low_ranks if name not in shapes or low_ranks[name].shape != shapes[name]]
    if strange or not low_ranks:
        raise DataError(
            f"The adapter {folder} does not fit this student: {sorted(strange)[0] if strange else 'it is empty'}.",
            "Use an adapter that was trained on the same student.",
        )
    return {n: LowRank(mx.array(x.right), mx.array(x.left), x.scale) for n, x in sorted(low_ranks.items())}


def write_adapter(folder: Path, adapter: LowRanks, r: int, alpha: float) -> None:
    """Write both files into an existing folder: the same adapter gives the same bytes, and names no machine."""
    weights: dict[str, np.ndarray] = {}
    for name, low in adapter.items():
        weights[f"{_PREFIX}{name}.lora_A.weight"] = np.ascontiguousarray(np.array(low.a))
        weights[f"{_PREFIX}{name}.lora_B.weight"] = np.ascontiguousarray(np.array(low.b))
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "r": r,
        "lora_alpha": alpha,
        "lora_dropout": 0.0,
        "target_modules": sorted({name.rsplit(".", 1)[-1] for name in adapter}),
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
        "base_model_name_or_path": None,
    }
    (folder / CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    save_file(weights, folder / WEIGHTS, metadata={"format": "pt"})
