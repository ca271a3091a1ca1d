"""Which errors mean that there was too little memory."""

from __future__ import annotations

_MESSAGES = (
    "kIOGPUCommandBufferCallbackErrorOutOfMemory",  # Metal: a command buffer found no memory
    "kIOGPUCommandBufferCallbackErrorTimeout",  # Metal's watchdog: a command buffer took too long
    "kIOGPUCommandBufferCallbackErrorImpactingInteractivity",  # the same, where the screen waited for it
    "[metal::malloc]",  # larger than a buffer may be, or too many buffers
    "Unable to allocate",  # the allocators of Metal, CUDA and older CPUs: "[malloc]", "[malloc_or_wait]"
)
"""In an exception's text, which is all that MLX gives."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether a call may do better with fewer tokens: no memory, or longer in one go than the system allows."""
    return isinstance(error, MemoryError) or any(text in str(error) for text in _MESSAGES)
