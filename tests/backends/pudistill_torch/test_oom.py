"""Which errors of torch are taken for too little memory."""

from __future__ import annotations

import pytest
import torch

from pudistill_torch.oom import is_out_of_memory

SHORTAGES = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
    RuntimeError("[enforce fail at alloc_cpu.cpp:117] err == 0. DefaultCPUAllocator: can't allocate memory"),
    RuntimeError("MPS backend out of memory (MPS allocated: 17.9 GB, max allowed: 18.1 GB)."),
    RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    MemoryError(),
]


@pytest.mark.parametrize("error", SHORTAGES, ids=lambda e: str(e)[:30])
def test_known(error: Exception) -> None:
    assert is_out_of_memory(error)


def test_what_the_cpu_really_raises() -> None:
    """2 ** 61 bytes: more than any address space."""
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**59, dtype=torch.float32)
    assert is_out_of_memory(caught.value)


@pytest.mark.parametrize("text", ["CUDA error: device-side assert triggered", "shape '[2, 3]' is invalid", ""])
def test_another_error_is_not_taken_for_it(text: str) -> None:
    assert not is_out_of_memory(RuntimeError(text))
