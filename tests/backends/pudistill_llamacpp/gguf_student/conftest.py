"""A random model with rows of 256, and its GGUF file in float32."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.backends.pudistill_llamacpp.gguf_student.files import as_gguf, save_wide
from tests.tiny import STUDENT


@pytest.fixture(scope="session")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_wide(tmp_path_factory.mktemp("wide"), STUDENT)


@pytest.fixture(scope="session")
def wide_gguf(wide: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return as_gguf(wide, tmp_path_factory.mktemp("wide-gguf") / "wide.gguf")
