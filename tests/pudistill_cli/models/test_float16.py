"""Numbers beyond float16, in every type that holds them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from pudistill_cli.models import float16
from pudistill_cli.models.float16 import beyond_float16
from pudistill_cli.models.safetensors_io import STORED, TensorSpec, from_float32, stored_tensors, write_tensors


@pytest.mark.parametrize("dtype", ["F32", "BF16", "F64"])
@pytest.mark.parametrize(
    ("largest", "beyond"),
    [(65504, False), (-65504, False), (65519, False), (65520, True), (-1e6, True), (np.inf, False), (np.nan, False)],
)
def test_the_largest_number(
    dtype: str, largest: float, beyond: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """float16's largest is 65,504, and what is nearer to it than to 65,536 rounds to it."""
    monkeypatch.setattr(float16, "_BLOCK", 3)
    values = np.array([0, 1, -2, 3, largest, 5], np.float32)
    if dtype == "BF16" and np.isfinite(largest):
        beyond = abs(largest) > 65408  # between its own 65,280 and 65,536 the tie is there
    bits = values.astype(STORED["F64"]) if dtype == "F64" else from_float32(values, dtype)
    write_tensors(tmp_path / "x.safetensors", [TensorSpec("x", dtype, (2, 3))], lambda _: [bits])
    assert beyond_float16(stored_tensors(tmp_path / "x.safetensors")) == ("x" if beyond else None)


def test_halves_are_not_read(tmp_path: Path) -> None:
    bits = np.array([np.inf, 65504], np.float16)
    write_tensors(tmp_path / "x.safetensors", [TensorSpec("x", "F16", (2,))], lambda _: [bits])
    assert beyond_float16(stored_tensors(tmp_path / "x.safetensors")) is None
