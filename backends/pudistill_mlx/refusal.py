"""Why a checkpoint cannot be held in MLX, found from its config and the headers of its weights."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import redirect_stdout
from pathlib import Path
from sys import stderr
from typing import Any

from mlx_lm.models.cache import KVCache, RotatingKVCache
from mlx_lm.models.switch_layers import QuantizedSwitchLinear, SwitchLinear
from mlx_lm.utils import _get_classes as model_classes
from mlx_lm.utils import load_model

from pudistill_cli.foreign_errors import reason_of
from pudistill_cli.models import checkpoint_files, layer_types
from pudistill_cli.models.checkpoint_files import read_json, weight_files
from pudistill_mlx import quirks
from pudistill_mlx.lora import linear_layers


def problem(folder: Path) -> str | None:
    """Why MLX cannot hold this checkpoint, in one line; no weight is read."""
    return structure_problem(folder) or _loading(folder)


def structure_problem(folder: Path) -> str | None:
    """As `problem`, but for weights that are missing, or that mlx-lm has no place for."""
    config, shapes = read_json(folder / "config.json"), shapes_of(folder)
    known = quirks.problem(config)
    if known is not None:
        return f"{known}."
    if (named := layer_types.problem(config)) is not None:
        return named
    if strange := [file.name for file in weight_files(folder) if not file.name.startswith("model")]:
        return f"mlx-lm reads model*.safetensors only, and its weights are in {strange[0]}."
    try:
        with redirect_stdout(stderr):
            model = _empty(config | settings(folder))
            return _structure(model, shapes, quantised="quantization" in config)
    except SystemExit:  # its olmo.py ends the process
        return f"mlx-lm needs another package for {config.get('model_type')!r}."
    except Exception as error:  # noqa: BLE001 - which ones a model raises over a config is not written anywhere
        return f"mlx-lm cannot build {config.get('model_type')!r} from this config.json: {reason_of(error)}."


def settings(folder: Path) -> dict[str, Any]:
    """What has to replace entries of config.json for mlx-lm."""
    return quirks.settings_for_mlx_lm(read_json(folder / "config.json"), frozenset(shapes_of(folder)))


def without_a_place(reason: str) -> str | None:
    """What mlx-lm means where it says that its model has no place for some weights; None if it says something else."""
    if not reason.startswith("Received"):
        return None
    names = reason.partition(": ")[2].rstrip(".").split(", ")
    return f"mlx-lm's model has no place for {len(names)} of its weights, {names[0]} among them."


def _loading(folder: Path) -> str | None:
    """Whether mlx-lm's model has a place for every weight, and a weight for every place: MLX reads none for it."""
    try:
        with redirect_stdout(stderr):
            load_model(folder, lazy=True, strict=True, model_config=settings(folder))
    except Exception as error:  # noqa: BLE001 - as above
        return without_a_place(" ".join(str(error).split())) or f"mlx-lm cannot load it: {reason_of(error)}."
    return None


def shapes_of(folder: Path) -> dict[str, tuple[int, ...]]:
    """The checkpoint's tensors by name."""
    return checkpoint_files.shapes_of(weight_files(folder))


def _empty(config: dict[str, Any]) -> Any:
    """The model before its weights are read; MLX computes nothing that nobody asks for."""
    make, arguments = model_classes(config=config)
    return make(arguments.from_dict(config))


def _structure(model: Any, shapes: Mapping[str, tuple[int, ...]], *, quantised: bool) -> str | None:
    if not callable(getattr(model, "model", None)) or not hasattr(model, "layers"):
        return "its parts are not those of a plain causal language model in mlx-lm."
    if any(isinstance(m, SwitchLinear | QuantizedSwitchLinear) for m in model.modules()):
        return "it has expert layers, which cannot be adapted here."
    caches = model.make_cache() if hasattr(model, "make_cache") else []
    if not all(isinstance(layer, KVCache | RotatingKVCache) for layer in caches):
        return "it has recurrent layers, whose state cannot be branched as keys and values are."
    layers = linear_layers(model)
    if not layers:
        return "mlx-lm has no linear layers in its blocks that an adapter could be on."
    for name, layer in layers.items():
        shape = shapes.get(f"{name}.weight")
        if shape is None:
            return f"mlx-lm calls {name} what the checkpoint calls otherwise, so an adapter would not fit it."
        if not quantised and shape != tuple(layer.weight.shape):
            return f"mlx-lm holds {name} in another shape than the checkpoint, so an adapter would not fit it."
    return None
