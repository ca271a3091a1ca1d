"""Files and folders appear whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from safetensors import SafetensorError

from pudistill_cli.errors import RunError
from pudistill_cli.files.atomic_files import recover_folders, replace_folder, whole_folder, write_atomic


def _folder(path: Path, content: str) -> Path:
    (path / "deep").mkdir(parents=True)
    (path / "deep" / "file").write_text(content)
    return path


def test_a_file_is_replaced_and_nothing_is_left_beside_it(tmp_path: Path):
    path = tmp_path / "file"
    write_atomic(path, "old")
    old = path.open("rb")
    write_atomic(path, "naïve\n")
    with old:
        assert old.read() == b"old"  # a reader keeps what it opened: the new content is another file
    assert path.read_bytes() == "naïve\n".encode()
    write_atomic(path, b"\xff")
    assert path.read_bytes() == b"\xff"
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_a_new_file_has_the_users_usual_mode(tmp_path: Path):
    mask = os.umask(0o027)
    try:
        write_atomic(tmp_path / "file", "x")
    finally:
        os.umask(mask)
    assert (tmp_path / "file").stat().st_mode & 0o777 == 0o640


def test_a_place_that_cannot_be_written_is_one_message(tmp_path: Path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(RunError, match=r"Cannot write .*below: Not a directory") as error:
        write_atomic(tmp_path / "file" / "below", "x")
    assert "--runs" in error.value.hint


def test_a_failed_write_leaves_the_old_file(tmp_path: Path):
    (tmp_path / "file").write_text("old")
    with pytest.raises(UnicodeEncodeError):
        write_atomic(tmp_path / "file", "\ud83d")
    assert {p.name: p.read_text() for p in tmp_path.iterdir()} == {"file": "old"}


def test_a_folder_takes_the_place_of_another(tmp_path: Path):
    final = _folder(tmp_path / "final", "old")
    (final / "only-old").write_text("x")
    replace_folder(_folder(tmp_path / "new", "new"), final)
    assert sorted(str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*")) == [
        "final",
        "final/deep",
        "final/deep/file",
    ]
    assert (final / "deep" / "file").read_text() == "new"
    replace_folder(_folder(tmp_path / "another", "another"), tmp_path / "fresh")
    assert (tmp_path / "fresh" / "deep" / "file").read_text() == "another"


def test_a_replacement_that_fails_leaves_the_old_folder(tmp_path: Path):
    final = _folder(tmp_path / "final", "old")
    with pytest.raises(RunError, match="Cannot write"):
        replace_folder(tmp_path / "missing", final)
    assert (final / "deep" / "file").read_text() == "old"


def test_what_a_process_that_died_left_is_undone(tmp_path: Path):
    _folder(tmp_path / ".first.old", "old")  # died before the second rename
    _folder(tmp_path / ".second.old", "old")  # died before the old one was deleted
    _folder(tmp_path / "second", "new")
    _folder(tmp_path / ".third.tmp", "half")  # died while it wrote
    (tmp_path / ".file.123.tmp").write_text("half")
    recover_folders(tmp_path)
    assert {p.name: (p / "deep" / "file").read_text() for p in tmp_path.iterdir()} == {"first": "old", "second": "new"}


def test_a_folder_that_was_not_finished_leaves_the_old_one(tmp_path: Path):
    def half_written() -> None:
        with whole_folder(tmp_path / "final") as folder:
            (folder / "half").touch()
            raise ZeroDivisionError

    _folder(tmp_path / "final", "old")
    with pytest.raises(ZeroDivisionError):
        half_written()
    assert sorted(p.name for p in tmp_path.rglob("*")) == ["deep", "file", "final"]
    with whole_folder(tmp_path / "final") as folder:
        (folder / "new").touch()
    assert sorted(p.name for p in tmp_path.rglob("*")) == ["final", "new"]


def test_a_library_that_finds_no_room_is_one_message(tmp_path: Path):
    """In the words of safetensors 0.5, whose errors are none of the system's."""
    said = "Error while serializing: I/O error: No space left on device (os error 28)"
    _folder(tmp_path / "final", "old")
    with pytest.raises(RunError, match=r"Cannot write .*final: No space left on device"):
        _written_by(tmp_path / "final", SafetensorError(said))
    with pytest.raises(SafetensorError, match="invalid dtype"):
        _written_by(tmp_path / "final", SafetensorError("invalid dtype"))
    assert sorted(p.name for p in tmp_path.rglob("*")) == ["deep", "file", "final"]


def _written_by(path: Path, error: Exception) -> None:
    with whole_folder(path):
        raise error
