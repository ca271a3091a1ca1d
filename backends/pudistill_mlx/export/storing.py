"""A float32 model in mlx-lm's form turned into what is stored. Nothing is computed before somebody writes it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from contextlib import redirect_stdout
from dataclasses import dataclass
from io import StringIO
from math import prod
from pathlib import Path
from typing import Any, cast

import mlx.core as mx
from mlx.utils import tree_flatten, tree_map_with_path
from mlx_lm.utils import load_model, quantize_model

from pudistill_cli.backend_api.export_formats import MLX_GROUP_SIZES
from pudistill_cli.models.checkpoint_files import read_json, safetensors_header, weight_files
from pudistill_mlx.export.packing import requantised
from pudistill_mlx.export.variants import Variant
from pudistill_mlx.quirks import settings_for_mlx_lm

_DTYPES = {"F64": "float32", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}


@dataclass(frozen=True, slots=True)
class Stored:
    """What a model's weights are stored as."""

    quantised: int
    """Weights in groups."""
    full: int
    """All others, in `dtype`."""
    dtype: str
    nbytes: int
    """Of all tensors, scales and biases included."""
    better_group: int | None = None
    """A smaller group that would quantise more."""

    @property
    def bits_per_weight(self) -> float:
        """On average."""
        return 8 * self.nbytes / (self.quantised + self.full)

    @property
    def full_share(self) -> float:
        """Of all weights."""
        return self.full / (self.quantised + self.full)


def open_model(folder: Path) -> tuple[Any, dict[str, Any]]:
    """mlx-lm's model of a checkpoint, no weight read yet, and the config.json with which mlx-lm computes the same.

    Raises:
        ValueError, KeyError, TypeError, RuntimeError, OSError: mlx-lm cannot load it.
    """
    config = read_json(folder / "config.json")
    settings = settings_for_mlx_lm(config, tensor_names(folder))
    with redirect_stdout(StringIO()):
        model, _ = load_model(folder, lazy=True, model_config=settings)
    return model, config | settings


def tensor_names(folder: Path) -> frozenset[str]:
    """Of a checkpoint, by the headers of its files."""
    return frozenset(name for file in weight_files(folder) for name in safetensors_header(file))


def dtype_of(variant: Variant, folder: Path) -> str:
    """Of what is not quantised, scales and biases included: the variant's, else that of most of the checkpoint."""
    if variant.dtype is not None:
        return variant.dtype
    sizes: Counter[str] = Counter()
    for file in weight_files(folder):
        for name, entry in safetensors_header(file).items():
            if name != "__metadata__" and entry["dtype"] in _DTYPES:
                sizes[_DTYPES[entry["dtype"]]] += prod(cast("list[int]", entry["shape"]))
    return sizes.most_common(1)[0][0] if sizes else "float32"


def quantisable(model: Any, group_size: int) -> int:
    """Weights in layers whose width is a multiple of a group: MLX quantises no others."""
    layers = [m.weight for m in model.modules() if hasattr(m, "to_quantized")]
    return sum(weight.size for weight in layers if weight.shape[-1] % group_size == 0)


def store(model: Any, config: Mapping[str, Any], variant: Variant, dtype: str) -> tuple[Stored, dict[str, Any]]:
    """Turn a float32 model into what is stored, everything that is not quantised in `dtype`; returns its config too."""
    better = _better_group(model, variant.group_size) if variant.quantised else None
    described = _with_dtype(config, dtype)
    if variant.quantised:
        described = _quantise(model, described, variant, getattr(mx, dtype))
    keeps = getattr(model, "cast_predicate", lambda _: True)

    def cast_to(name: str, value: mx.array) -> mx.array:
        floats = mx.issubdtype(value.dtype, mx.floating)
        return value.astype(getattr(mx, dtype)) if floats and keeps(name) else value

    model.update(tree_map_with_path(cast_to, model.parameters()))
    return _counted(model, dtype, better), described


def _better_group(model: Any, group_size: int) -> int | None:
    fits = {size: quantisable(model, size) for size in MLX_GROUP_SIZES if size <= group_size}
    best = max(fits, key=lambda size: (fits[size], size))
    return best if fits[best] > fits[group_size] else None


def _counted(model: Any, dtype: str, better_group: int | None) -> Stored:
    """By the shapes of the tensors."""
    layers = [m for m in model.modules() if hasattr(m, "bits") and hasattr(m, "scales")]
    quantised = sum(m.weight.size * 32 // m.bits for m in layers)
    within = sum(x.size for m in layers for x in (m.weight, m.scales, m.biases))
    tensors = cast("list[mx.array]", [value for _, value in tree_flatten(model.parameters())])
    full, nbytes = sum(x.size for x in tensors) - within, sum(x.nbytes for x in tensors)
    return Stored(quantised, full, dtype, nbytes, better_group)


def _quantise(model: Any, config: dict[str, Any], variant: Variant, dtype: mx.Dtype) -> dict[str, Any]:
    """By mlx-lm's own rules of which layers; straight from float32, with scales and biases in `dtype`."""
    whole = {name: m.weight for name, m in model.named_modules() if hasattr(m, "to_quantized")}
    with redirect_stdout(StringIO()):  # mlx-lm prints the bits a weight
        _, described = quantize_model(model, config, variant.group_size, variant.bits)
    for name, layer in model.named_modules():
        if name in whole and hasattr(layer, "scales"):
            layer.scales, layer.biases = layer.scales.astype(dtype), layer.biases.astype(dtype)
            layer.weight = requantised(whole[name], layer.scales, layer.biases, layer.bits)
    return described


def _with_dtype(config: Mapping[str, Any], dtype: str) -> dict[str, Any]:
    """The config with `dtype` under the name or names it has."""
    return {
        key: _with_dtype(cast("Mapping[str, Any]", value), dtype)
        if isinstance(value, dict)
        else dtype
        if key in ("dtype", "torch_dtype")
        else value
        for key, value in config.items()
    }
