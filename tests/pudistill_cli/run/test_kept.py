"""What a run keeps: how damage is found, said, and put right from a copy."""

from __future__ import annotations

from collections.abc import Callable
from hashlib import sha256
from pathlib import Path

import pytest

from pudistill_cli.run.kept import Damage, damages, put_back, sums_of


@pytest.fixture
def run(tmp_path: Path) -> Path:
    for name, content in {"adapters/sft/a": b"one", "adapters/sft/deep/b": b"two", "results.json": b"{}"}.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(content)
    return tmp_path


def known(run: Path) -> dict[str, dict[str, str]]:
    return sums_of(run, run / "adapters" / "sft", run / "results.json")


def test_sums_are_those_of_the_bytes_by_name_and_file(run: Path):
    assert sums_of(run, run / "adapters" / "sft", run / "results.json", run / "export" / "hf") == {
        "adapters/sft": {"a": sha256(b"one").hexdigest(), "deep/b": sha256(b"two").hexdigest()},
        "results.json": {"": sha256(b"{}").hexdigest()},
        "export/hf": {},
    }


def test_what_is_as_it_was_written_is_not_damaged_whatever_lies_beside_it(run: Path):
    sums = known(run)
    (run / "adapters" / "sft" / ".DS_Store").write_bytes(b"x")
    assert damages(run, sums) == []


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[0] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize(
    ("harm", "what"),
    [
        (flip, f"has the SHA-256 {sha256(b'nne').hexdigest()[:16]}..., and {sha256(b'one').hexdigest()[:16]}... was"),
        (lambda p: p.write_bytes(b"on"), f"has the SHA-256 {sha256(b'on').hexdigest()[:16]}..."),
        (lambda p: p.write_bytes(b""), f"has the SHA-256 {sha256(b'').hexdigest()[:16]}..."),
        (lambda p: p.unlink(), "is missing"),
        (lambda p: (p.unlink(), p.mkdir()), "cannot be read (Is a directory)"),
    ],
)
def test_a_damaged_file_is_named_with_what_is_the_matter(run: Path, harm: Callable[[Path], object], what: str):
    sums = known(run)
    harm(run / "adapters" / "sft" / "a")
    (damage,) = damages(run, sums)
    assert (damage.name, damage.file, damage.expected) == ("adapters/sft", "a", sha256(b"one").hexdigest())
    assert str(damage).startswith(f"adapters/sft/a {what}")


def test_a_folder_or_file_that_is_gone_is_missing(run: Path):
    sums = known(run)
    (run / "results.json").unlink()
    (run / "adapters").rename(run / "elsewhere")
    assert [str(d) for d in damages(run, sums)] == [
        "adapters/sft/a is missing",
        "adapters/sft/deep/b is missing",
        "results.json is missing",
    ]


@pytest.mark.parametrize("harm", [flip, lambda p: p.unlink(), lambda p: (p.unlink(), p.mkdir())])
def test_a_damaged_file_is_put_back_from_a_copy_that_is_whole(run: Path, harm: Callable[[Path], object]):
    for name in ("export/adapter/a", "state/sft/a"):
        (run / name).parent.mkdir(parents=True)
        (run / name).write_bytes(b"one")
    sums = {**known(run), **sums_of(run, run / "state" / "sft", run / "export" / "adapter")}
    harm(run / "adapters" / "sft" / "a")
    flip(run / "state" / "sft" / "a")
    found = damages(run, sums)
    mended, left = put_back(run, sums, found)
    assert [(d.path, copy) for d, copy in mended] == [
        ("adapters/sft/a", "export/adapter/a"),
        ("state/sft/a", "adapters/sft/a"),  # which is whole again
    ]
    assert left == damages(run, sums) == []


def test_what_has_no_whole_copy_is_left(run: Path):
    sums = known(run)
    flip(run / "adapters" / "sft" / "a")
    found = damages(run, sums)
    assert put_back(run, sums, found) == ([], found)
    unknown = Damage("adapters/round-1", "", "is missing", "")
    assert put_back(run, sums, [unknown]) == ([], [unknown])
    assert str(unknown) == "adapters/round-1 is missing"
