"""A random model with rows of 256, and its GGUF file in float32."""

from __future__ import annotations

from pathlib import Path

import pytest
from files import as_gguf, save_wide
from random_models import QUICKSTART


@pytest.fixture(scope="session")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_wide(tmp_path_factory.mktemp("wide"), QUICKSTART)


@pytest.fixture(scope="session")
def wide_gguf(wide: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return as_gguf(wide, tmp_path_factory.mktemp("wide-gguf") / "wide.gguf")
