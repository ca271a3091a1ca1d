"""A run and the cache are for their owner only, whatever the umask."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pudistill_cli.files.private_files import (
    as_others_are,
    make_private_database,
    make_private_folder,
    owner_only,
    tighten,
)
from pudistill_cli.run.ledger import Ledger
from tests.tiny import Ended, Tiny

pytestmark = pytest.mark.skipif(os.name == "nt", reason="Windows knows no modes")


@pytest.fixture(params=[0o000, 0o022, 0o777], ids=oct)
def umask(request: pytest.FixtureRequest) -> Iterator[int]:
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


def mode_of(path: Path) -> int:
    return path.stat().st_mode & 0o7777


def test_every_file_of_a_run_and_of_the_cache_is_its_owners(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: Callable[..., Ended]
) -> None:
    before = os.umask(0)
    try:
        tiny = Tiny.make(tmp_path / "made", teacher={"kind": "file", "path": "anchors.jsonl"}, prefer={"rounds": 1})
        monkeypatch.chdir(tmp_path)
        monkeypatch.setenv("PUDISTILL_CACHE", str(tmp_path / "cache"))
        ended = call(*tiny.arguments())
        assert ended.code == 0, ended.err
        assert call("anchors", str(tiny.recipe), "--out", "answers.jsonl").code == 0
        assert os.umask(0) == 0  # as it was
        ledger = Ledger(tiny.run / "ledger.sqlite")
        ledger.add_metrics("sft", 0, 0, {"loss": 1.0})  # its -wal and -shm are there while it is open
    finally:
        os.umask(before)
    made = [tiny.runs, tmp_path / "cache", tmp_path / "answers.jsonl"]
    made += [p for folder in made[:2] for p in folder.rglob("*")]
    ledger.close()
    names = {".lock", "ledger.sqlite", "ledger.sqlite-wal", "report.html", "anchors.sqlite", "hf"}
    assert names <= {path.name for path in made}
    for path in made:
        if path.exists():
            assert mode_of(path) == (0o700 if path.is_dir() else 0o600), path


def test_folders_and_databases_are_made_so_without_a_command_too(tmp_path: Path, umask: int) -> None:
    if umask == 0o777:
        pytest.skip("nothing can be made below a folder that its owner may not enter")
    make_private_folder(tmp_path / "a" / "b")
    make_private_database(tmp_path / "a" / "db.sqlite")
    assert [mode_of(tmp_path / p) for p in ("a", "a/b", "a/db.sqlite")] == [0o700, 0o700, 0o600]


def test_what_an_older_version_left_open_is_taken_from_others(copied: Tiny, call: Callable[..., Ended]) -> None:
    copied.run.chmod(0o755)
    (copied.run / "ledger.sqlite").chmod(0o644)
    assert call("eval", "tiny", "--runs", str(copied.runs)).code == 0
    assert mode_of(copied.run) == 0o700
    assert mode_of(copied.run / "ledger.sqlite") == 0o600


def test_a_folder_that_is_there_stays_as_it_is(tmp_path: Path) -> None:
    """`PUDISTILL_CACHE=/tmp`, or a folder that a group shares on purpose."""
    tmp_path.chmod(0o755)
    make_private_folder(tmp_path)
    assert mode_of(tmp_path) == 0o755
    tighten(tmp_path / "not there")


def test_the_persons_own_umask_is_there_for_what_is_shared(tmp_path: Path) -> None:
    before = os.umask(0o022)
    try:
        with owner_only():
            (tmp_path / "ours").touch(0o666)
            with as_others_are():
                (tmp_path / "theirs").touch(0o666)
            (tmp_path / "ours again").touch(0o666)
        (tmp_path / "after").touch(0o666)
        with as_others_are():
            (tmp_path / "outside").touch(0o666)
    finally:
        os.umask(before)
    names = ("ours", "theirs", "ours again", "after", "outside")
    assert [mode_of(tmp_path / name) for name in names] == [0o600, 0o644, 0o600, 0o644, 0o644]
