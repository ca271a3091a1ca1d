"""The adapter that is trained: a dict of arrays outside the model, so that nothing of the base can be unfrozen."""

from __future__ import annotations

from collections.abc import Mapping
from hashlib import blake2b
from typing import TypeAlias

import mlx.core as mx
import numpy as np

from pudistill_cli.backend_api.contract import LoraSpec
from pudistill_mlx.lora import LowRank, LowRanks

Arrays: TypeAlias = dict[str, mx.array]
"""`<layer>.a` (r, in) and `<layer>.b` (out, r) of every layer, float32 whatever the base is."""


def fresh(shapes: Mapping[str, tuple[int, int]], lora: LoraSpec) -> Arrays:
    """A uniform in [-1, 1] / sqrt(in), as PEFT draws it (Kaiming, a = sqrt 5); B zero, so that it changes nothing."""
    arrays: Arrays = {}
    for name, (rows, columns) in shapes.items():
        drawn = _generator(lora.seed, name).uniform(-1.0, 1.0, (lora.r, columns)) / np.sqrt(columns)
        arrays[f"{name}.a"] = mx.array(drawn.astype(np.float32))
        arrays[f"{name}.b"] = mx.zeros((rows, lora.r))
    return arrays


def as_arrays(adapter: LowRanks) -> Arrays:
    """The arrays of an adapter."""
    pairs = [(f"{n}.{part}", getattr(low, part)) for n, low in adapter.items() for part in ("a", "b")]
    return {key: array.astype(mx.float32) for key, array in pairs}


def as_adapter(arrays: Mapping[str, mx.array], scale: float) -> LowRanks:
    """The adapter of these arrays."""
    names = [key.removesuffix(".a") for key in arrays if key.endswith(".a")]
    return {name: LowRank(arrays[f"{name}.a"], arrays[f"{name}.b"], scale) for name in names}


def _generator(seed: int, name: str) -> np.random.Generator:
    """Keyed by the layer's name: a layer's numbers do not depend on how many others there are."""
    key = int.from_bytes(blake2b(name.encode(), digest_size=8).digest(), "little")
    return np.random.Generator(np.random.Philox(np.random.SeedSequence([seed, key])))
