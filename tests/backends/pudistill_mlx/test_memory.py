"""Limits of the device, and which errors mean that it had too little memory or time."""

from __future__ import annotations

import mlx.core as mx
import pytest

from pudistill_mlx import memory
from tests.backends.pudistill_mlx.small import fresh_learner

OF_METAL = "[METAL] Command buffer execution failed: {}."


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError(OF_METAL.format("Insufficient Memory (00000008:kIOGPUCommandBufferCallbackErrorOutOfMemory)")),
        RuntimeError(OF_METAL.format("Caused GPU Timeout Error (00000002:kIOGPUCommandBufferCallbackErrorTimeout)")),
        RuntimeError(
            OF_METAL.format("Impacting Interactivity (0000000e:kIOGPUCommandBufferCallbackErrorImpactingInteractivity)")
        ),
        RuntimeError("[metal::malloc] Attempting to allocate 99 bytes which is greater than the maximum allowed"),
        RuntimeError("[metal::malloc] Resource limit (499000) exceeded."),
        RuntimeError("[malloc] Unable to allocate 123 bytes."),
        RuntimeError("[malloc_or_wait] Unable to allocate 123 bytes."),
        MemoryError("std::bad_alloc"),
    ],
    ids=str,
)
def test_what_fewer_tokens_may_help_against(error: Exception) -> None:
    assert memory.is_shortage(error)


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError(OF_METAL.format("Internal Error (0000000e:Internal Error)")),
        RuntimeError(OF_METAL.format("Invalid Resource (00000009:kIOGPUCommandBufferCallbackErrorInvalidResource)")),
        ValueError("[matmul] Last dimension of first input with shape (2,3) must match"),
    ],
    ids=str,
)
def test_what_they_would_not(error: Exception) -> None:
    assert not memory.is_shortage(error)


def test_the_wired_limit_is_the_gpus_working_set(monkeypatch: pytest.MonkeyPatch) -> None:
    limits: list[int] = []
    monkeypatch.setattr(mx, "set_wired_limit", limits.append)
    monkeypatch.setattr(mx, "device_info", lambda: {"max_recommended_working_set_size": 12 << 30})
    memory.use_limits("gpu")
    assert limits == [12 << 30]


def test_never_on_a_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("set_wired_limit", "set_memory_limit", "set_cache_limit"):
        monkeypatch.setattr(mx, name, lambda _: pytest.fail("a limit was set"))
    fresh_learner().close()
    assert memory.recommended_bytes() == memory.CPU_BYTES
