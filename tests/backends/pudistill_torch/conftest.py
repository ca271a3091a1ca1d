"""One random Llama for most tests, saved once."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("torch", reason="needs the torch backend")

from tests.backends.pudistill_torch.small import open_learner, save_student


@pytest.fixture(scope="session")
def student(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_student(tmp_path_factory.mktemp("student"))


@pytest.fixture(scope="session")
def adapter(student: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An adapter that changes the student's distribution."""
    learner = open_learner(student, seed=1)
    return learner.snapshot(tmp_path_factory.mktemp("adapter") / "sft")
