"""A checkpoint in the cache: made once, and once more where it is not what was written any more."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from pudistill_cli.models import kept_checkpoint as module
from pudistill_cli.models.kept_checkpoint import kept_checkpoint

CONTENT = {"config.json": b"{}", "model.safetensors": b"weights"}


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "cache" / "student"


def made(out: Path) -> int:
    """How often it had to be written."""
    times = 0

    def write(folder: Path) -> None:
        nonlocal times
        times += 1
        for name, content in CONTENT.items():
            (folder / name).write_bytes(content)

    assert kept_checkpoint(out, 7, "It takes", write) == out
    assert {name: (out / name).read_bytes() for name in CONTENT} == CONTENT
    return times


def flip(path: Path) -> None:
    """One bit, and nothing that the file system knows of."""
    before, data = path.stat(), bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def another_process() -> None:
    module._FOUND_WHOLE.clear()


def test_it_is_made_once(out: Path) -> None:
    assert [made(out), made(out)] == [1, 0]
    another_process()
    assert made(out) == 0
    assert sorted(p.name for p in out.iterdir()) == [*CONTENT, "sums.json"]
    assert [p.name for p in out.parent.iterdir()] == ["student"]


@pytest.mark.parametrize(
    "harm",
    [
        lambda out: flip(out / "model.safetensors"),
        lambda out: (out / "model.safetensors").write_bytes(b""),
        lambda out: (out / "config.json").unlink(),
        lambda out: (out / "sums.json").write_text("{"),
        lambda out: (out / "sums.json").write_text("{}"),
        lambda out: (out / "sums.json").write_text("[1]"),
    ],
)
def test_one_that_is_damaged_is_made_again(out: Path, harm: Callable[[Path], object]) -> None:
    made(out)
    harm(out)
    another_process()
    assert [made(out), made(out)] == [1, 0]
    assert [p.name for p in out.parent.iterdir()] == ["student"]


def test_the_sums_of_an_older_one_are_taken(out: Path) -> None:
    made(out)
    (out / "sums.json").unlink()
    another_process()
    assert made(out) == 0
    assert json.loads((out / "sums.json").read_text()).keys() == CONTENT.keys()
    flip(out / "model.safetensors")
    another_process()
    assert made(out) == 1


def test_it_is_read_once_a_process(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made(out)
    another_process()
    assert made(out) == 0
    monkeypatch.setattr(module, "file_sum", lambda path: pytest.fail(f"{path} is read again"))
    assert made(out) == 0
