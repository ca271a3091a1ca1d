"""Whether the entries of config.json are of their types, in sensible ranges, and of the sizes that the weights have.

Frameworks build a model by the config before they look at the weights: a width of 10**12 is memory that is asked for, a
billion layers are a loop that does not end, and a text where a number should be is a TypeError somewhere inside.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, cast

from pudistill_cli.errors import DataError
from pudistill_cli.models.reading import COPY_AGAIN

Config = Mapping[str, Any]
Check = Callable[[Any], str | None]
"""What a value should have been; None if it is that. A few architectures have a number for each layer."""


def _whole(least: int, most: int) -> Check:
    wanted = f"a whole number from {least:,} to {most:,}"
    return lambda value: None if type(value) is int and least <= value <= most else wanted


def _number(least: float, most: float) -> Check:
    wanted = f"a number from {least:g} to {most:g}"

    def check(value: Any) -> str | None:
        # Without a conversion, which a whole number of 4,000 digits does not survive; NaN compares as false.
        return None if type(value) in (int, float) and least <= value <= most else wanted

    return check


def _text(value: Any) -> str | None:
    return None if isinstance(value, str) and len(value) <= _LONGEST_TEXT else "a text"


def _flag(value: Any) -> str | None:
    return None if isinstance(value, bool) else "true or false"


def _list_of(check: Check) -> Check:
    def whole(value: Any) -> str | None:
        if not isinstance(value, list) or len(cast("list[Any]", value)) > _LONGEST_LIST:
            return f"a list of at most {_LONGEST_LIST:,} entries"
        return next(
            (f"a list, each entry {wanted}" for item in cast("list[Any]", value) if (wanted := check(item))), None
        )

    return whole


def _one_or_more(check: Check) -> Check:
    return lambda value: _list_of(check)(value) if isinstance(value, list) and value else check(value)


def _ids_or_none(value: Any) -> str | None:
    return None if value == [] else _one_or_more(_whole(-1, (1 << 31) - 1))(value)


_LONGEST_TEXT = 1024
_LONGEST_LIST = 65_536
_width = _whole(1, 1 << 22)
_count = _whole(1, 1 << 14)
_positive = _number(1e-12, 1e12)
_FIELDS: dict[str, Check] = {
    **dict.fromkeys(("hidden_size", "n_embd", "d_model", "head_dim", "n_inner"), _width),
    **dict.fromkeys(("num_hidden_layers", "n_layer", "n_head"), _count),
    **dict.fromkeys(("num_attention_heads", "num_key_value_heads"), _one_or_more(_count)),
    "intermediate_size": _one_or_more(_width),
    **dict.fromkeys(("vocab_size", "moe_intermediate_size", "shared_expert_intermediate_size"), _whole(1, 1 << 26)),
    **dict.fromkeys(("max_position_embeddings", "n_positions", "n_ctx", "max_sequence_length"), _whole(1, 1 << 31)),
    **dict.fromkeys(("seq_length", "original_max_position_embeddings"), _whole(1, 1 << 31)),
    **dict.fromkeys(("sliding_window", "max_window_layers"), _whole(0, 1 << 31)),
    **dict.fromkeys(("num_local_experts", "num_experts", "n_routed_experts"), _whole(0, 1 << 14)),
    "num_experts_per_tok": _whole(0, 1 << 14),
    **dict.fromkeys(("rms_norm_eps", "layer_norm_eps", "layer_norm_epsilon", "norm_eps"), _number(0, 1)),
    **dict.fromkeys(("attention_dropout", "hidden_dropout", "resid_pdrop", "embd_pdrop", "attn_pdrop"), _number(0, 1)),
    **dict.fromkeys(("rope_theta", "rope_local_base_freq", "query_pre_attn_scalar"), _positive),
    **dict.fromkeys(("attn_logit_softcapping", "final_logit_softcapping"), _positive),
    **dict.fromkeys(("partial_rotary_factor", "rotary_pct"), _number(1e-6, 1)),
    **dict.fromkeys(("embedding_multiplier", "residual_multiplier"), _number(-1e6, 1e6)),
    **dict.fromkeys(("logits_scaling", "logit_scale"), _number(-1e6, 1e6)),
    **dict.fromkeys(("attention_multiplier", "initializer_range"), _number(0, 1e6)),
    **dict.fromkeys(("tie_word_embeddings", "attention_bias", "mlp_bias", "use_cache", "use_sliding_window"), _flag),
    **dict.fromkeys(("model_type", "dtype", "torch_dtype"), _text),
    **dict.fromkeys(("hidden_act", "hidden_activation", "activation_function"), _text),
    **dict.fromkeys(("architectures", "layer_types"), _list_of(_text)),
    **dict.fromkeys(("bos_token_id", "eos_token_id", "pad_token_id", "unk_token_id"), _ids_or_none),
    "pretraining_tp": _whole(1, 1 << 14),
    "no_rope_layers": _list_of(_whole(0, 1 << 14)),
    "no_rope_layer_interval": _whole(1, 1 << 14),
}
"""Entries by the names that transformers' architectures use. Each may be null, or left out."""
_ROPE: dict[str, Check] = {
    **dict.fromkeys(("rope_type", "type"), _text),
    **dict.fromkeys(("rope_theta", "factor", "attention_factor", "beta_fast", "beta_slow"), _positive),
    **dict.fromkeys(("low_freq_factor", "high_freq_factor"), _positive),
    **dict.fromkeys(("mscale", "mscale_all_dim"), _number(0, 1e6)),
    **dict.fromkeys(("short_factor", "long_factor"), _list_of(_positive)),
    "partial_rotary_factor": _number(1e-6, 1),
    "original_max_position_embeddings": _whole(1, 1 << 31),
    "truncate": _flag,
}
"""Entries of `rope_parameters`, or `rope_scaling` as it was called before."""
_PARTS = ("text_config",)
_EMBEDDED = ("vocab_size", "hidden_size", "n_embd", "d_model", "intermediate_size", "n_inner", "head_dim")
"""Sizes that some tensor has as one of its own, or as a part of it."""
_BLOCK = re.compile(r"(?:^|\.)(?:layers|h|blocks|block)\.(\d{1,6})\.")


def check_fields(path: Path, config: Config) -> None:
    """Refuse a config with an entry of another type or beyond its range; `path` is for the message.

    Raises:
        DataError: it names the entry, and what it should be.
    """
    _check(path, config, _FIELDS)
    for name in ("rope_parameters", "rope_scaling"):
        _check_rope(path, name, config.get(name))
    for part in _PARTS:
        if part in config and config[part] is not None:
            if not isinstance(config[part], dict):
                raise _wrong(path, part, config[part], "an object")
            check_fields(path, cast("Config", config[part]))
    heads, shared = _first(config, "num_attention_heads", "n_head"), _first(config, "num_key_value_heads")
    if heads and shared and heads % shared:
        raise _wrong(path, "num_key_value_heads", shared, f"a divisor of num_attention_heads, {heads}")


def check_token_ids(path: Path, config: Config) -> None:
    """As `check_fields`, of a generation_config.json: of what is in it the token ids alone are read."""
    _check(path, config, {name: check for name, check in _FIELDS.items() if name.endswith("_token_id")})


def check_sizes(path: Path, config: Config, shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Refuse a config that asks for more layers than the weights have, or a width that none of them has.

    Raises:
        DataError: it names the entry, and what the weights say.
    """
    text = cast("Config", config.get("text_config") or config)
    blocks = {int(match[1]) for name in shapes if (match := _BLOCK.search(name))}
    layers = _first(text, "num_hidden_layers", "n_layer")
    if blocks and layers > max(blocks) + 1:
        raise _not_of_these(path, f"there are {layers:,} layers, and the weights have {max(blocks) + 1:,}")
    largest = max((n for shape in shapes.values() for n in shape), default=0)
    for name in _EMBEDDED:
        if _first(text, name) > largest:
            raise _not_of_these(path, f"{name} is {text[name]:,}, and the largest side of a weight is {largest:,}")
    heads, width = _first(text, "num_attention_heads", "n_head"), _first(text, "head_dim")
    if heads * (width or 1) > largest:
        raise _not_of_these(path, f"{heads:,} heads of {width or 1:,} are wider than any weight, {largest:,}")


def _check(path: Path, config: Config, fields: Mapping[str, Check], within: str = "") -> None:
    for name in fields.keys() & config.keys():
        value = config[name]
        if value is not None and (wanted := fields[name](value)) is not None:
            raise _wrong(path, within + name, value, wanted)


def _check_rope(path: Path, name: str, value: Any) -> None:
    """Of one kind of layer, or of several by their names."""
    if value is None:
        return
    if not isinstance(value, dict):
        raise _wrong(path, name, value, "an object")
    rope = cast("Config", value)
    _check(path, rope, _ROPE, f"{name}.")
    for kind, part in rope.items():
        if isinstance(part, dict):
            _check(path, cast("Config", part), _ROPE, f"{name}.{kind}.")


def _first(config: Config, *names: str) -> int:
    return next((value for name in names if type(value := config.get(name)) is int), 0)


def _wrong(path: Path, name: str, value: Any, wanted: str) -> DataError:
    return DataError(f"{path}: {name} is {shown(value)}, and should be {wanted}.", COPY_AGAIN)


def _not_of_these(path: Path, reason: str) -> DataError:
    return DataError(
        f"{path} is not of these weights: by it, {reason}.",
        "Download or copy the student again, config.json together with the weights.",
    )


def shown(value: Any) -> str:
    """A value of a config for a message: short, on one line."""
    if isinstance(value, list | dict):
        return "a list" if isinstance(value, list) else "an object"
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
