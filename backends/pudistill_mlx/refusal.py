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

from pudistill_cli.models.checkpoint_files import read_json, safetensors_header, weight_files
from pudistill_mlx import quirks
from pudistill_mlx.lora import linear_layers


def problem(folder: Path) -> str | None:
    """Why MLX cannot hold this checkpoint, in one line; no weight is read."""
    config, shapes = read_json(folder / "config.json"), shapes_of(folder)
    known = quirks.problem(config)
    if known is not None:
        return f"{known}."
    try:
        with redirect_stdout(stderr):
            model = _empty(config | quirks.settings_for_mlx_lm(config, frozenset(shapes)))
    except (ValueError, LookupError, TypeError, AttributeError, AssertionError, ArithmeticError) as error:
        return f"mlx-lm cannot build {config.get('model_type')!r} from this config.json: {error}."
    except SystemExit:  # its olmo.py ends the process
        return f"mlx-lm needs another package for {config.get('model_type')!r}."
    return _structure(model, shapes, quantised="quantization" in config)


def shapes_of(folder: Path) -> dict[str, tuple[int, ...]]:
    """The checkpoint's tensors by name."""
    headers = [safetensors_header(file) for file in weight_files(folder)]
    return {name: tuple(x["shape"]) for header in headers for name, x in header.items() if name != "__metadata__"}


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
