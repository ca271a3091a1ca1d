"""Which errors mean that there was too little memory."""

from __future__ import annotations

import torch

_MESSAGES = (
    "can't allocate memory",  # a CPU
    "MPS backend out of memory",
    "CUBLAS_STATUS_ALLOC_FAILED",  # cuBLAS, for its own workspace
)
"""In an exception's text, where there is no type for it."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether a call may do better with fewer tokens in a pass."""
    known = isinstance(error, (torch.OutOfMemoryError, MemoryError))
    return known or any(text in str(error) for text in _MESSAGES)
