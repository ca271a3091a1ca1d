"""Limits of the device: what stays resident on a GPU, and none on a CPU."""

from __future__ import annotations

import mlx.core as mx
import pytest

from pudistill_mlx import device_limits
from tests.backends.pudistill_mlx.small import fresh_learner


def test_the_wired_limit_is_the_gpus_working_set(monkeypatch: pytest.MonkeyPatch) -> None:
    limits: list[int] = []
    monkeypatch.setattr(mx, "set_wired_limit", limits.append)
    monkeypatch.setattr(mx, "device_info", lambda: {"max_recommended_working_set_size": 12 << 30})
    device_limits.use_limits("gpu")
    assert limits == [12 << 30]


def test_never_on_a_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("set_wired_limit", "set_memory_limit", "set_cache_limit"):
        monkeypatch.setattr(mx, name, lambda _: pytest.fail("a limit was set"))
    fresh_learner().close()
    assert device_limits.recommended_bytes() == device_limits.CPU_BYTES
