"""Which errors of MLX are taken for too little memory, or too little time."""

from __future__ import annotations

import pytest

from pudistill_mlx.oom import is_out_of_memory

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
    assert is_out_of_memory(error)


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
    assert not is_out_of_memory(error)
