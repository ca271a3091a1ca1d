"""Rotary positions: where configs of several ages keep their settings, what llama.cpp calls them, frequency factors."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pudistill_llamacpp.convert.hyperparameters import Entry, Hyperparameters, float32, string, uint32

_THETA = 10000.0
_YARN = {"beta_fast": 32, "beta_slow": 1, "extrapolation_factor": 1, "mscale": None, "mscale_all_dim": None}
"""What llama.cpp computes YaRN with. It reads other values for few architectures, and for none of those here."""


@dataclass(frozen=True, slots=True)
class Rope:
    """The settings of one kind of layer."""

    theta: float
    kind: str
    """default, linear, dynamic, yarn, llama3 or longrope."""
    settings: Mapping[str, Any]

    def problem(self, kinds: frozenset[str]) -> str | None:
        """Why llama.cpp would compute other positions, where only `kinds` are known for the architecture."""
        if self.kind not in kinds:
            return f"its RoPE scaling is {self.kind!r}"
        if self.kind in ("linear", "yarn") and not isinstance(self.settings.get("factor"), int | float):
            return f"its {self.kind} RoPE scaling names no factor"
        if self.kind == "yarn":
            other = [key for key, value in _YARN.items() if self.settings.get(key) not in (None, value)]
            if other:
                return f"its YaRN scaling has a {other[0]} of {self.settings[other[0]]}"
            if self.settings.get("truncate") is False or not self.settings.get("original_max_position_embeddings"):
                return "its YaRN scaling does not truncate, or names no original context"
        if (self.settings.get("partial_rotary_factor") or 1.0) != 1.0 and "longrope" not in kinds:
            return "it rotates only part of each head"
        return None

    def entries(self) -> list[Entry]:
        """The metadata: theta, and the scaling that llama.cpp computes itself."""
        metadata = [float32("{arch}.rope.freq_base", self.theta)]
        if self.kind in ("linear", "yarn"):
            metadata += [
                string("{arch}.rope.scaling.type", self.kind),
                float32("{arch}.rope.scaling.factor", self.settings["factor"]),
            ]
        if self.kind == "yarn":
            original = self.settings["original_max_position_embeddings"]
            metadata.append(uint32("{arch}.rope.scaling.original_context_length", original))
            if (given := self.settings.get("attention_factor")) is not None:
                # llama.cpp multiplies it with the factor that it computes itself (Peng et al. 2023, section 3.4).
                own = 0.1 * math.log(self.settings["factor"]) + 1.0
                metadata.append(float32("{arch}.rope.scaling.attn_factor", given / own))
        return metadata


def rope_of(hyper: Hyperparameters, layers: str = "full_attention") -> Rope:
    """RoPE of the layers of one kind.

    Today's configs say `rope_parameters`, for each kind of layer where they differ; older ones say `rope_theta`,
    `rope_scaling` and, for Gemma 3's sliding layers, `rope_local_base_freq`.
    """
    settings = hyper.nested("rope_parameters") or hyper.nested("rope_scaling")
    if isinstance(settings.get(layers), Mapping):
        settings = dict(settings[layers])
    elif layers == "sliding_attention" and hyper.get("rope_local_base_freq") is not None:
        settings = {"rope_theta": hyper.get("rope_local_base_freq")}
    if (share := hyper.get("partial_rotary_factor")) is not None:
        settings = {"partial_rotary_factor": share, **settings}  # transformers moves it there too
    theta = settings.get("rope_theta") or hyper.get("rope_theta") or _THETA
    kind = str(settings.get("rope_type") or settings.get("type") or "default").lower()
    # Phi-3's first configs call it "su".
    return Rope(float(theta), "longrope" if kind == "su" else kind, settings)


def llama3_factors(rope: Rope, width: int) -> NDArray[np.float32]:
    """(width / 2,) what each frequency is divided by: Llama 3.1's scaling, interpolated between two wavelengths.

    A frequency whose wave is short against the original context stays, a long one is divided by `factor`, and one
    in between by the inverse of the interpolated frequency ratio (transformers, `_compute_llama3_parameters`).
    """
    factor = float(rope.settings.get("factor", 8.0))
    low, high = float(rope.settings.get("low_freq_factor", 1.0)), float(rope.settings.get("high_freq_factor", 4.0))
    original = float(rope.settings.get("original_max_position_embeddings", 8192))
    frequencies = 1.0 / rope.theta ** (np.arange(0, width, 2, dtype=np.float64) / width)
    wavelengths = 2 * math.pi / frequencies
    smooth = (original / wavelengths - low) / (high - low)
    between = 1.0 / ((1.0 - smooth) / factor + smooth)
    factors = np.where(wavelengths > original / low, factor, between)
    return np.where(wavelengths < original / high, 1.0, factors).astype(np.float32)
