"""What is found about the machine that runs the tests."""

from __future__ import annotations

from pudistill_cli.hardware.machine import detect


def test_this_machine_has_cores_and_memory() -> None:
    hardware = detect()
    assert hardware.cores >= 1
    assert 0.5 < hardware.free_gib <= hardware.memory_gib
