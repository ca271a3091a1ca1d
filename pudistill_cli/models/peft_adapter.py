"""A LoRA adapter in PEFT's format, read without PEFT: what of it can be merged, and nothing else."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pudistill_cli.errors import ExportError
from pudistill_cli.models.adapter_check import CONFIG, KEY, WEIGHTS, by_pattern, check_weights, checked_config
from pudistill_cli.models.config_fields import shown
from pudistill_cli.models.safetensors_io import FLOATS, stored_tensors, to_float32

_UNDERSTOOD = frozenset(
    {
        "alpha_pattern", "auto_mapping", "base_model_name_or_path", "bias", "ensure_weight_tying", "eva_config",
        "exclude_modules", "fan_in_fan_out", "inference_mode", "init_lora_weights", "layers_pattern",
        "layers_to_transform", "lora_alpha", "lora_dropout", "megatron_core", "peft_type", "peft_version",
        "qalora_group_size", "r", "rank_pattern", "revision", "target_modules", "task_type", "use_rslora",
    }
)  # fmt: skip
"""Settings that are read here, or that change no weight. Any other one must be off."""
_PLAIN = {
    "peft_type": ("LORA",),
    "bias": ("none",),
    "init_lora_weights": (True, False, "gaussian", "eva", "orthogonal"),
}
"""Other initialisations (pissa, olora, loftq, ...) change the base weights too."""


@dataclass(frozen=True, slots=True)
class LowRank:
    """An addition to one weight: scale * left @ right, in the weight's own orientation."""

    left: NDArray[np.float32]
    """(rows, r)"""
    right: NDArray[np.float32]
    """(r, columns)"""
    scale: float

    @property
    def shape(self) -> tuple[int, int]:
        """Of the weight."""
        return self.left.shape[0], self.right.shape[1]

    def rows(self, start: int, stop: int) -> NDArray[np.float32]:
        """(stop - start, columns) of the addition."""
        return (self.left[start:stop] @ self.right) * np.float32(self.scale)


def read_adapter(folder: Path) -> dict[str, LowRank]:
    """What an adapter adds, by module name of the base model: W + (alpha / r) B A (Hu et al. 2022, eq. 3).

    With `use_rslora` the factor is alpha / sqrt(r) (Kalajdzievski 2023). With `fan_in_fan_out` weights are (in, out).

    Raises:
        ExportError: no LoRA adapter, or one that is more than an addition to weight matrices.
        DataError: its files are damaged, or do not agree.
    """
    config = checked_config(folder)
    _refuse_more_than_lora(folder, config)
    if not (folder / WEIGHTS).is_file():
        raise ExportError(f"{folder} holds no {WEIGHTS}.", "Name an adapter in PEFT's format, as safetensors.")
    sides: dict[str, dict[str, NDArray[np.float32]]] = {}
    tensors = stored_tensors(folder / WEIGHTS)
    for tensor in tensors:
        spec = tensor.spec
        match = KEY.fullmatch(spec.name)
        if match is None or len(spec.shape) != 2 or spec.dtype not in FLOATS:
            raise _cannot_merge(folder, f"its tensor {spec.name} is no LoRA of a linear layer")
        if not all(spec.shape):
            raise _cannot_merge(folder, f"its tensor {spec.name} is empty")
        matrix = to_float32(tensor.read(), spec.dtype).reshape(spec.shape)
        sides.setdefault(match["module"], {})[match["side"]] = matrix
    low_ranks = {module: _low_rank(folder, module, pair, config) for module, pair in sides.items()}
    check_weights(folder, config, tensors)
    return low_ranks


def _low_rank(folder: Path, module: str, pair: dict[str, NDArray[np.float32]], config: Mapping[str, Any]) -> LowRank:
    a, b = pair.get("A"), pair.get("B")  # (r, in), (out, r)
    if a is None or b is None or a.shape[0] != b.shape[1]:
        raise _cannot_merge(folder, f"lora_A and lora_B of {module} do not fit each other")
    r = a.shape[0]
    alpha = by_pattern(config.get("alpha_pattern") or {}, module, config["lora_alpha"])
    scale = alpha / math.sqrt(r) if config.get("use_rslora") else alpha / r
    return LowRank(a.T, b.T, scale) if config.get("fan_in_fan_out") else LowRank(b, a, scale)


def _refuse_more_than_lora(folder: Path, config: Mapping[str, Any]) -> None:
    if "lora_alpha" not in config:
        raise ExportError(f"{folder} holds no {CONFIG} of a LoRA adapter.", "Name an adapter in PEFT's format.")
    for key, plain in _PLAIN.items():
        if key in config and config[key] not in plain:
            raise _cannot_merge(folder, f"its {key} is {shown(config[key])}")
    for key, value in config.items():
        if value and key not in _UNDERSTOOD:
            raise _cannot_merge(folder, f"it uses {key} ({shown(value)})")


def _cannot_merge(folder: Path, reason: str) -> ExportError:
    return ExportError(
        f"The adapter {folder} cannot be merged: {reason}.",
        "Plain LoRA on linear layers can. Use this one beside its base model: --format adapter",
    )
