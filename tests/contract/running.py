"""A backend that a test needs."""

from __future__ import annotations

import os

import pytest

from pudistill_cli.contract import Backend
from pudistill_cli.registry import backends


def running(name: str) -> Backend:
    """It has to be there in the whole check, which sets EVERY_BACKEND, and may be missing elsewhere."""
    found = backends().get(name)
    problem = f"{name} is not installed" if found is None else found.problem()
    if found is None or problem is not None:
        if os.environ.get("EVERY_BACKEND"):
            pytest.fail(f"every backend has to keep the contract: {problem}")
        pytest.skip(f"needs the backend: {problem}")
    return found
