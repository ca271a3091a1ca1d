"""Where mlx-lm reads a checkpoint's config otherwise than it is meant: put right, or refused.

All of it is silent there: the model loads, and is another one. Left as it is: GELU, which mlx-lm computes exactly for
Gemma 1 and StarCoder2 and transformers by a tanh, up to 1e-2 in the log-probs of sharp random models.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

_ROPE_ALONE = ("rope_theta", "partial_rotary_factor")
"""Of `rope_parameters`: what mlx-lm looks for beside `rope_scaling`, not in it."""
_ALL_SLIDE = ("mistral", "phi3", "starcoder2")
"""In every layer; mlx-lm leaves the window out, our cache has it."""
_ACTIVATIONS = {
    **dict.fromkeys(("llama", "mistral", "qwen2", "qwen3", "phi3", "smollm3"), ("hidden_act", "silu")),
    **dict.fromkeys(("gemma2", "gemma3_text"), ("hidden_activation", "gelu_pytorch_tanh")),
}
"""What mlx-lm computes in the MLPs of these, whatever the config's entry of this name says."""


def settings_for_mlx_lm(config: Mapping[str, Any], tensors: frozenset[str]) -> dict[str, Any]:
    """What has to replace entries of config.json; `tensors` are the checkpoint's names."""
    changed = _rope(config)
    if "tie_word_embeddings" not in config:  # mlx-lm's default differs from transformers' for Llama
        changed["tie_word_embeddings"] = "lm_head.weight" not in tensors
    pattern = _sliding_pattern(config)
    if pattern is not None and "sliding_window_pattern" not in config:
        changed["sliding_window_pattern"] = pattern
    if uniform_window(config) is not None and _layer_types(config):
        changed["layer_types"] = None  # mlx-lm would look for a layer that does not slide
    return changed


def problem(config: Mapping[str, Any]) -> str | None:
    """What of this checkpoint mlx-lm computes otherwise, in one line; None where nothing is known."""
    scaling = _scaling(config)
    kind = scaling.get("rope_type") or scaling.get("type")
    if kind in ("longrope", "su") and scaling.get("short_factor") != scaling.get("long_factor"):
        return "mlx-lm uses the long-context RoPE factors at every length, the checkpoint only behind its original one"
    if kind == "dynamic":
        return "mlx-lm's dynamic RoPE scaling cannot take rows of different lengths"
    if kind == "yarn" and scaling.get("truncate") is False:
        return "mlx-lm's YaRN always rounds the range of dimensions that it interpolates"
    entry, activation = _ACTIVATIONS.get(str(config.get("model_type")), ("", ""))
    if config.get(entry) not in (None, activation):
        return f"mlx-lm computes {activation} in its MLPs, the checkpoint {config[entry]}"
    if config.get("model_type") == "gemma3_text" and _layer_types(config) and _sliding_pattern(config) is None:
        return "mlx-lm knows sliding windows only in a regular pattern of layers"
    return None


def uniform_window(config: Mapping[str, Any]) -> int | None:
    """The sliding window of every layer, where mlx-lm leaves it out and the caller's cache can put it in."""
    window = config.get("sliding_window")
    return window if isinstance(window, int) and config.get("model_type") in _ALL_SLIDE else None


def longest_context(config: Mapping[str, Any]) -> int | None:
    """Tokens up to which mlx-lm computes the checkpoint's own attention: some sliding windows it leaves out."""
    window, kind = config.get("sliding_window"), config.get("model_type")
    slides = kind == "gemma2" or (kind in ("qwen2", "qwen3") and config.get("use_sliding_window"))
    return window if isinstance(window, int) and slides else None


def embedding_factor(config: Mapping[str, Any]) -> float:
    """By what mlx-lm's token embeddings are too small in float32: it rounds Gemma 3's sqrt(D) to bfloat16."""
    if config.get("model_type") != "gemma3_text":
        return 1.0
    scale = math.sqrt(config["hidden_size"])
    unit = 2.0 ** (math.floor(math.log2(scale)) - 7)  # bfloat16 keeps 8 bits
    return scale / (round(scale / unit) * unit)


def _rope(config: Mapping[str, Any]) -> dict[str, Any]:
    """transformers 5 keeps all of RoPE in `rope_parameters`; most of mlx-lm looks elsewhere, and takes defaults."""
    rope = config.get("rope_parameters")
    if not isinstance(rope, dict) or not rope:
        return {}
    if not all(isinstance(part, dict) for part in rope.values()):
        return _flat_rope(rope)
    settings = _flat_rope(rope["full_attention"]) if "full_attention" in rope else {}
    local = rope.get("sliding_attention", {}).get("rope_theta")
    return settings | ({} if local is None else {"rope_local_base_freq": local})


def _flat_rope(rope: Mapping[str, Any]) -> dict[str, Any]:
    settings = {name: rope[name] for name in _ROPE_ALONE if rope.get(name) is not None}
    kind = rope.get("rope_type") or rope.get("type") or "default"
    if kind != "default":
        rest = {name: value for name, value in rope.items() if name not in _ROPE_ALONE}
        settings["rope_scaling"] = rest | {"rope_type": kind, "type": kind} | _mscale(rope, kind)
    return settings


def _mscale(rope: Mapping[str, Any], kind: str) -> dict[str, float]:
    """YaRN's `attention_factor` f, which mlx-lm does not read, as the m of its own 0.1 m ln(factor) + 1."""
    f, factor = rope.get("attention_factor"), rope.get("factor")
    if kind != "yarn" or not factor or factor <= 1:
        return {}
    if f is not None:
        return {"mscale": (f - 1) / (0.1 * math.log(factor)), "mscale_all_dim": 0.0}
    # transformers uses neither of them without the other.
    return {} if rope.get("mscale") and rope.get("mscale_all_dim") else {"mscale": 1.0, "mscale_all_dim": 0.0}


def _scaling(config: Mapping[str, Any]) -> Mapping[str, Any]:
    changed = _rope(config)
    scaling = changed.get("rope_scaling") or config.get("rope_scaling")
    return scaling if isinstance(scaling, dict) else {}


def _layer_types(config: Mapping[str, Any]) -> list[str]:
    types = config.get("layer_types")
    return [str(kind) for kind in types] if isinstance(types, list) else []


def _sliding_pattern(config: Mapping[str, Any]) -> int | None:
    """N where every N-th layer is global and all others slide; None where it is not like that."""
    types = _layer_types(config)
    if "full_attention" not in types or "sliding_attention" not in types:
        return None
    pattern = types.index("full_attention") + 1
    regular = all((kind == "full_attention") == ((i + 1) % pattern == 0) for i, kind in enumerate(types))
    return pattern if regular else None
