"""Loading a checkpoint through mlx-lm: a local folder, safetensors only, no remote code, nothing missing."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import redirect_stdout
from pathlib import Path
from sys import stderr
from typing import Any, NoReturn

import mlx.core as mx
from mlx import nn
from mlx_lm.models.cache import RotatingKVCache
from mlx_lm.utils import load_model

from pudistill_cli.backend_api.contract import Base
from pudistill_cli.errors import BackendError, DataError
from pudistill_cli.foreign_errors import reason_of
from pudistill_cli.models.checkpoint_files import read_json
from pudistill_cli.models.reading import COPY_AGAIN
from pudistill_mlx import quirks
from pudistill_mlx.embedding import RescaledEmbedding
from pudistill_mlx.lora import linear_layers
from pudistill_mlx.refusal import settings, structure_problem, without_a_place

GROUP_SIZE = 64
"""Weights that share a scale and a bias: MLX's own default."""
_BITS = {"8bit": 8, "4bit": 4}


def load_base(folder: Path, dtype: mx.Dtype, base: Base) -> Any:
    """A causal language model, its weights evaluated, on the default device.

    Raises:
        DataError: the folder holds no whole checkpoint.
        BackendError: MLX cannot run this architecture as a run needs it, or quantise it.
    """
    _refuse(folder)
    try:
        with redirect_stdout(stderr):  # mlx-lm prints its warnings; results are what stdout is for
            model: Any = load_model(folder, lazy=True, strict=True, model_config=settings(folder))[0]
    except Exception as error:
        raise _not_loaded(folder, error) from error
    model.eval()
    model.set_dtype(dtype)
    factor = quirks.embedding_factor(read_json(folder / "config.json"))
    if dtype == mx.float32 and factor != 1 and isinstance(model.model.embed_tokens, nn.Embedding):
        model.model.embed_tokens = RescaledEmbedding(model.model.embed_tokens, factor)
    if base in _BITS:
        _quantise(model, _BITS[base])
    mx.eval(model.parameters())
    return model


def windows_of(model: Any, folder: Path) -> list[int | None]:
    """The sliding window of each layer: one for all by the checkpoint's config, else what mlx-lm would cache."""
    uniform = quirks.uniform_window(read_json(folder / "config.json"))
    if uniform is not None or not hasattr(model, "make_cache"):
        return [uniform] * len(model.layers)
    return [layer.max_size if isinstance(layer, RotatingKVCache) else None for layer in model.make_cache()]


def _refuse(folder: Path) -> None:
    reason = structure_problem(folder)
    if reason is not None:
        raise _refused(folder, reason)


def _refused(folder: Path, reason: str) -> BackendError:
    return BackendError(
        f"MLX cannot run {folder.name}: {reason}", "Use another backend: --set backend=torch, or another student."
    )


def _not_loaded(folder: Path, error: Exception) -> BackendError | DataError:
    unknown = without_a_place(" ".join(str(error).split()))
    if unknown is not None:
        return _refused(folder, unknown)
    return DataError(f"{folder} cannot be loaded: {reason_of(error)}.", COPY_AGAIN)


def _quantise(model: Any, bits: int) -> None:
    """Quantise the linear layers of the blocks; embeddings and head stay as they are."""
    layers = linear_layers(model)
    narrow = [name for name, layer in layers.items() if layer.weight.shape[-1] % GROUP_SIZE]
    if len(narrow) == len(layers):
        _not_in_groups(bits)
    chosen = layers.keys() - set(narrow)
    predicate: Callable[[str, nn.Module], bool] = lambda name, _: name in chosen  # noqa: E731
    nn.quantize(model, group_size=GROUP_SIZE, bits=bits, class_predicate=predicate)


def _not_in_groups(bits: int) -> NoReturn:
    raise BackendError(
        f"None of the student's layers can be held in {bits} bits: their widths are no multiples of {GROUP_SIZE}.",
        "Use --set lora.base=bf16",
    )
