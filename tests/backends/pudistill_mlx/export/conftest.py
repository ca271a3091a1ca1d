"""An adapter on the quickstart's student, and what it makes of some answers in float64."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.backends.pudistill_mlx.export.exports import save_adapter
from tests.tiny import STUDENT


@pytest.fixture(scope="session")
def adapter(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random, and large enough to be seen."""
    return save_adapter(STUDENT, tmp_path_factory.mktemp("adapter") / "trained")
