"""An adapter on the quickstart's student, and what it makes of some answers in float64."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from tiny import STUDENT

sys.path.append(str(Path(__file__).resolve().parents[2] / "contract"))  # reference

from mlx_exports import save_adapter


@pytest.fixture(scope="session")
def adapter(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random, and large enough to be seen."""
    return save_adapter(STUDENT, tmp_path_factory.mktemp("adapter") / "trained")
