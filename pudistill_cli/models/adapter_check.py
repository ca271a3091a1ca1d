"""Whether an adapter's two files are whole and agree, before any library makes matrices of the ranks that they name."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, cast

import numpy as np

from pudistill_cli.errors import DataError
from pudistill_cli.foreign_errors import as_data_error
from pudistill_cli.models.checkpoint_files import read_json, refuse_outside
from pudistill_cli.models.config_fields import shown
from pudistill_cli.models.regex_limits import check_pattern
from pudistill_cli.models.safetensors_io import FLOATS, StoredTensor, blocks_of, stored_tensors, to_float32

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"
KEY = re.compile(r"base_model\.model\.(?P<module>.+)\.lora_(?P<side>[AB])\.weight")

Config = Mapping[str, Any]

_ADVICE = f"An adapter is a folder with {CONFIG} and {WEIGHTS}: copy both again, or run the stage that writes them."
_MOST_RANK = 1 << 16
_BLOCK = 1 << 22
_REPEATS = 3
"""In a pattern for names: `.*language_model.*_proj` is common, and a name is short."""
_FLAGS = ("use_rslora", "fan_in_fan_out", "inference_mode", "use_dora")
_PATTERNS = ("target_modules", "exclude_modules", "layers_pattern")
"""Names of modules, or one regular expression for them."""


def checked_config(folder: Path) -> Config:
    """An adapter's settings, each of its type; an empty object where there are none.

    Raises:
        DataError: it names the setting that is not, or a file that is a link out of the folder.
    """
    for name in (CONFIG, WEIGHTS):
        refuse_outside(folder, name, name)
    path = folder / CONFIG
    config = read_json(path, _ADVICE)
    wrong = next(_wrong_settings(config), None)
    if wrong is not None:
        raise DataError(f"{path}: {wrong}.", _ADVICE)
    return config


def check_adapter(folder: Path) -> None:
    """See that an adapter is whole: settings, ranks by settings and by weights, and finite numbers.

    Raises:
        DataError: what of it is not.
    """
    config = checked_config(folder)
    if not config:
        raise DataError(f"{folder} holds no whole adapter: there is no {CONFIG}.", _ADVICE)
    check_weights(folder, config, list(stored_tensors(folder / WEIGHTS)))


def check_weights(folder: Path, config: Config, tensors: list[StoredTensor]) -> None:
    """As `check_adapter`, of weights whose header was read."""
    for tensor in tensors:
        spec = tensor.spec
        match = KEY.fullmatch(spec.name)
        if match is not None and len(spec.shape) == 2:
            rank = spec.shape[0] if match["side"] == "A" else spec.shape[1]
            wanted = by_pattern(config.get("rank_pattern") or {}, match["module"], config.get("r", rank))
            if rank != wanted:
                raise DataError(
                    f"The adapter {folder} does not agree with itself: {spec.name} is of rank {rank:,}, and {CONFIG} "
                    f"says {wanted:,}.",
                    _ADVICE,
                )
        if spec.dtype in FLOATS and not is_finite(tensor):
            raise DataError(f"The adapter {folder} is damaged: its tensor {spec.name} is not finite.", _ADVICE)


def is_finite(tensor: StoredTensor) -> bool:
    """Whether a tensor of floats holds numbers alone, neither NaN nor infinite."""
    with as_data_error(f"Cannot read {tensor.path}", _ADVICE):
        return all(
            bool(np.isfinite(to_float32(tensor.read(start, stop), tensor.spec.dtype)).all())
            for start, stop in blocks_of(tensor.spec.size, _BLOCK)
        )


def by_pattern(patterns: Mapping[str, Any], module: str, default: Any) -> Any:
    """PEFT's rule: the first pattern that matches the end of the module's name, at a dot."""
    return next((value for p, value in patterns.items() if re.match(rf"(.*\.)?({p})$", module)), default)


def _wrong_settings(config: Config) -> Iterator[str]:
    r, alpha = config.get("r", 1), config.get("lora_alpha", 1)
    if not _is_rank(r):
        yield f"r is {shown(r)}, and should be a whole number from 1 to {_MOST_RANK:,}"
    if not _is_number(alpha):
        yield f"lora_alpha is {shown(alpha)}, and should be a number"
    for name, check in (("rank_pattern", _is_rank), ("alpha_pattern", _is_number)):
        value: Any = config.get(name) or {}
        patterns = cast("Config", value) if isinstance(value, dict) else None
        if patterns is None or not all(map(check, patterns.values())):
            yield f"{name} should be an object of numbers"
        else:
            yield from (problem for p in patterns if (problem := _pattern_problem(name, p)))
    for name in _PATTERNS:
        value = config.get(name)
        if isinstance(value, str):
            if (problem := _pattern_problem(name, value)) is not None:
                yield problem
        elif value is not None and not _are_texts(value):
            yield f"{name} should be a list of names"
    for name in _FLAGS:
        if not isinstance(config.get(name) or False, bool):
            yield f"{name} is {shown(config[name])}, and should be true or false"


def _pattern_problem(name: str, pattern: str) -> str | None:
    try:
        check_pattern(pattern, _REPEATS)
        re.compile(pattern)
    except (ValueError, re.error, RecursionError, OverflowError) as error:
        return f"{name} holds {shown(pattern)}, which cannot be used as a regular expression: {error}"
    return None


def _is_rank(value: Any) -> bool:
    return type(value) is int and 1 <= value <= _MOST_RANK


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and abs(value) < 1e12 and math.isfinite(value)


def _are_texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(item, str) for item in cast("list[Any]", value))
