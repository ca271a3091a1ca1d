"""Rotary positions of a GGUF file as transformers' `rope_parameters`: metadata, and factors that are tensors."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pudistill_cli.errors import DataError
from pudistill_llamacpp.convert.rope import Rope, llama3_factors
from pudistill_llamacpp.gguf_file.header import Header, Scalar

FREQUENCIES = "rope_freqs.weight"
LONG, SHORT = "rope_factors_long.weight", "rope_factors_short.weight"
FACTORS = frozenset({FREQUENCIES, LONG, SHORT})
"""Tensors that a checkpoint does not have."""

_LOW, _HIGH = 1.0, 4.0
"""Llama 3's `low_freq_factor` and `high_freq_factor`; only their relation to the original context shows in factors."""
_ORIGINAL = 8192
_THETA = 10000.0


def rope_parameters(header: Header, get: Mapping[str, Scalar], head_dim: int) -> dict[str, Any]:
    """Of one kind of layer, or of both kinds where they differ; `get` holds the architecture's keys.

    Raises:
        DataError: a scaling that transformers does not have, or factors that are no known scaling's.
    """
    theta = float(get.get("rope.freq_base", _THETA))
    scaling = str(get.get("rope.scaling.type", "none"))
    settings: dict[str, Any] = {"rope_type": "default", "rope_theta": theta}
    if LONG in header.tensors and SHORT in header.tensors:
        factors = {name: _factors(header, tensor) for name, tensor in (("long_factor", LONG), ("short_factor", SHORT))}
        settings |= {"rope_type": "longrope", **{name: _decimals(values) for name, values in factors.items()}}
    elif FREQUENCIES in header.tensors:
        settings |= _llama3(header, theta, head_dim)
    elif scaling in ("linear", "yarn"):
        settings |= {"rope_type": scaling, "factor": get.get("rope.scaling.factor", 1.0)}
        settings |= _yarn(get) if scaling == "yarn" else {}
    elif scaling != "none":
        raise _unknown(header, f"the scaling {scaling!r}")
    if header.architecture == "gemma3":
        local = {"rope_type": "default", "rope_theta": float(get.get("rope.freq_base_swa", _THETA))}
        return {"full_attention": settings, "sliding_attention": local}
    return settings


def _yarn(get: Mapping[str, Scalar]) -> dict[str, Any]:
    """YaRN's further settings; llama.cpp's attn_factor is what is left of transformers' (`convert.rope`).

    For no architecture here does llama.cpp read the file's `yarn_*` keys, betas among them: the learner leaves them
    alone too, and so trains the model that is sampled.
    """
    settings: dict[str, Any] = {"original_max_position_embeddings": get.get("rope.scaling.original_context_length")}
    if "rope.scaling.attn_factor" in get:
        own = 0.1 * math.log(float(get.get("rope.scaling.factor", 1.0))) + 1.0
        settings["attention_factor"] = float(get["rope.scaling.attn_factor"]) * own
    return settings


def _llama3(header: Header, theta: float, head_dim: int) -> dict[str, Any]:
    """Llama 3's settings from its factors (`convert.rope.llama3_factors`), which are computed again and compared."""
    factors = _factors(header, FREQUENCIES)
    if np.all(factors == 1.0):
        return {}
    if len(factors) != head_dim // 2 or factors.min() < 1.0:
        raise _unknown(header, f"{len(factors)} frequency factors")
    factor = float(factors.max())
    settings: dict[str, Any] = {
        "rope_type": "llama3",
        "factor": _shortest(factor),
        "low_freq_factor": _LOW,
        "high_freq_factor": _HIGH,
        "original_max_position_embeddings": _original_context(factors, factor, theta),
    }
    again = llama3_factors(Rope(theta, "llama3", settings), head_dim)
    if not np.allclose(again, factors, rtol=1e-4):
        raise _unknown(header, "frequency factors")
    return settings


def _original_context(factors: NDArray[np.float32], factor: float, theta: float) -> int:
    """Of the first factor v that is interpolated: 1 / v = (1 - s) / factor + s.

    Here s = (context / wavelength - low) / (high - low).
    """
    between = np.flatnonzero((factors > 1.0) & (factors < factor))
    if not len(between):
        return _ORIGINAL
    n = int(between[0])
    wavelength = 2 * math.pi * theta ** (2 * n / (2 * len(factors)))
    smooth = (1 / float(factors[n]) - 1 / factor) / (1 - 1 / factor)
    return round((smooth * (_HIGH - _LOW) + _LOW) * wavelength)


def _factors(header: Header, name: str) -> NDArray[np.float32]:
    """A tensor of factors, always stored in float32."""
    return header.tensors[name].read(header.path).view("<f4").reshape(-1)


def _decimals(values: NDArray[np.float32]) -> list[float]:
    return [_shortest(float(v)) for v in values]


def _shortest(value: float) -> float:
    """The shortest decimal that is the same float32."""
    return float(str(np.float32(value)))


def _unknown(header: Header, what: str) -> DataError:
    return DataError(
        f"{header.path} cannot be the student: its RoPE has {what}, which transformers does not have.",
        "Give the checkpoint that it was made from instead.",
    )
