"""A backend that a test needs, and where it runs."""

from __future__ import annotations

import os
from dataclasses import dataclass

import pytest

from pudistill_cli.backend_api.contract import Backend
from pudistill_cli.backend_api.registry import backends


def running(name: str) -> Backend:
    """It has to be there in the whole check, which sets EVERY_BACKEND, and may be missing elsewhere."""
    installed = backends().get(name)
    problem = f"{name} is not installed" if installed is None else installed.problem()
    if installed is None or problem is not None:
        if os.environ.get("EVERY_BACKEND"):
            pytest.fail(f"every backend has to keep the contract: {problem}")
        pytest.skip(f"needs the backend: {problem}")
    return installed


@dataclass(frozen=True, slots=True)
class Placed:
    """A backend on a device."""

    backend: Backend
    device: str


def placed(name: str) -> Placed:
    """By "backend" or "backend:device"; the device is the CPU otherwise, and one that is missing is no failure."""
    name, _, device = name.partition(":")
    backend = running(name)
    if device:
        import torch

        if not torch.cuda.is_available():
            pytest.skip("needs a CUDA device")
    return Placed(backend, device or "cpu")
