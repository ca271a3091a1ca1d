"""Why torch cannot hold a checkpoint, found from transformers' own loading of it without weights."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import transformers
from transformers import AutoConfig, AutoModelForCausalLM, DynamicCache
from transformers.cache_utils import DynamicLayer

from pudistill_cli.errors import PudistillError
from pudistill_cli.foreign_errors import reason_of
from pudistill_cli.models import layer_types
from pudistill_cli.models.checkpoint_files import read_json, shapes_of, weight_files
from pudistill_torch.targets import adapted_layers

LOCAL = {"local_files_only": True, "trust_remote_code": False}


def problem(folder: Path) -> str | None:
    """Why torch cannot hold this checkpoint, in one line; no weight is read."""
    named = layer_types.problem(read_json(folder / "config.json"))
    if named is not None:
        return named
    try:
        with _quietly():
            config = AutoConfig.from_pretrained(folder, **LOCAL)
            loaded: Any = AutoModelForCausalLM.from_pretrained(
                folder, config=config, device_map="meta", use_safetensors=True, output_loading_info=True, **LOCAL
            )
            model, info = loaded
            return _model_problem(model, info, folder)
    except PudistillError:
        raise
    except Exception as error:  # noqa: BLE001 - which ones a library raises over a config is not written anywhere
        return f"transformers cannot load it: {reason_of(error)}."


def _model_problem(model: Any, info: Mapping[str, Any], folder: Path) -> str | None:
    return attention_problem(model) or weights_problem(model, info) or _adapter_problem(model, folder)


def attention_problem(model: Any) -> str | None:
    """What of a model's layers cannot be branched and cut as keys and values are."""
    config = model.config.get_text_config()
    if getattr(model, "_is_stateful", False):
        return f"models of type {config.model_type!r} are recurrent."
    named = layer_types.problem_with(getattr(config, "layer_types", None) or ())
    caches = DynamicCache(config=config).layers
    if named is None and not all(isinstance(layer, DynamicLayer) for layer in caches):
        return "it has recurrent layers, whose state cannot be branched as keys and values are."
    return named


def weights_problem(model: Any, info: Mapping[str, Any]) -> str | None:
    """Weights that transformers' model misses, or has no place for; `info` is what loading told."""
    missing, unknown = sorted(info["missing_keys"]), sorted(info["unexpected_keys"])
    if missing:
        return f"it lacks {len(missing)} of its weights, {missing[0]} the first."
    lost = [name for name in unknown if name.endswith(".weight")]
    if lost:
        return (
            f"it holds {len(lost)} weights that transformers' {type(model).__name__} has no place for by its "
            f"config.json, {lost[0]} the first."
        )
    return None


def _adapter_problem(model: Any, folder: Path) -> str | None:
    """An adapter names its layers as transformers does; they must be the checkpoint's own names, to merge it there."""
    layers = adapted_layers(model)
    if not layers:
        return "it has no linear layers in its blocks that an adapter could be on."
    shapes = shapes_of(weight_files(folder))
    for name, layer in layers.items():
        # Some checkpoints leave out the name of the body ("transformer." in GPT-2's).
        held = shapes.get(f"{name}.weight", shapes.get(f"{name.partition('.')[2]}.weight"))
        if held != tuple(layer.weight.shape):
            return (
                f"transformers calls {name} what the checkpoint calls or splits otherwise: no adapter could be merged."
            )
    return None


@contextmanager
def _quietly() -> Iterator[None]:
    """Without transformers' bars and warnings: loading in earnest tells them."""
    logging = transformers.utils.logging
    verbosity = logging.get_verbosity()
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
