"""How much memory the device recommends, and the limit that a run sets on what stays resident."""

from __future__ import annotations

from typing import Literal

import mlx.core as mx

CPU_BYTES = 8 << 30
"""What stands for a CPU's recommendation: fixed, so that a run has the same bytes on whichever machine it goes on."""


def use_limits(device: Literal["gpu", "cpu"]) -> None:
    """On a GPU keep up to the recommended working set resident, so that macOS does not page weights out between passes.

    The other limits stay MLX's own, which are right for one process at a time: the memory limit is 1.5 times the
    working set (allocations beyond it wait for running work, then fail), and the cache of freed buffers is given back
    when 0.95 of the working set is in use. macOS before 15 ignores the wired limit. A CPU has none of them.
    """
    if device == "gpu":
        mx.set_wired_limit(recommended_bytes())


def recommended_bytes() -> int:
    """The working set that the default device recommends."""
    return int(mx.device_info().get("max_recommended_working_set_size", CPU_BYTES))
