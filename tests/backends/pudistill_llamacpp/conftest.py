"""What the llama.cpp backend's tests share: upstream's sources, and random models of every architecture."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("gguf", reason="needs the llama.cpp backend: pip install 'pudistill[llamacpp]'")
pytest.importorskip("llama_cpp", reason="needs the llama.cpp backend: pip install 'pudistill[llamacpp]'")
pytest.importorskip("torch", reason="needs torch and transformers, the other implementation")
pytest.importorskip("transformers", reason="needs torch and transformers, the other implementation")

from tests.backends.pudistill_llamacpp.gguf_student.files import as_gguf, save_wide
from tests.backends.random_models import MODELS, save_model
from tests.once import Once
from tests.tiny import ROOT, STUDENT

SOURCES = ROOT / ".upstream"


@pytest.fixture(scope="session")
def upstream() -> Path:
    """llama.cpp's own sources, from the unpacked source distribution of llama-cpp-python."""
    folders = sorted(SOURCES.glob("llama_cpp_python-*/vendor/llama.cpp"))
    if not folders:
        pytest.skip(f"needs llama-cpp-python's source distribution unpacked in {SOURCES.name}/")
    return folders[-1]


@pytest.fixture(scope="session")
def models(once: Once) -> dict[str, Path]:
    """A checkpoint of random weights for every name in MODELS. Only to be read."""
    folder = once("llamacpp-models", lambda folder: [save_model(name, folder / name) for name in MODELS])
    return {name: folder / name for name in MODELS}


@pytest.fixture(scope="session")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random model with rows of 256."""
    return save_wide(tmp_path_factory.mktemp("wide"), STUDENT)


@pytest.fixture(scope="session")
def wide_gguf(wide: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its GGUF file in float32."""
    return as_gguf(wide, tmp_path_factory.mktemp("wide-gguf") / "wide.gguf")
