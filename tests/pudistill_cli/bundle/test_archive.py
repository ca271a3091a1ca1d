"""Hostile and damaged archives: each is one sentence and exit code 3, and nothing of it is written anywhere."""

from __future__ import annotations

import json
import os
import stat
import struct
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pudistill_cli.bundle.archive import Bundle, is_bundle
from pudistill_cli.errors import DataError
from tests.pudistill_cli.bundle.made import FILES, archive, listed
from tests.tiny import Ended

Call = Callable[..., Ended]


def refused(path: Path, call: Call, *words: str) -> None:
    """By every command that opens it; nothing is written beside it."""
    room = path.parent / "room"
    room.mkdir()
    for arguments in (("run", str(path)), ("anchors", str(path)), ("bundle", "--open", str(path), "-o", f"{room}/out")):
        ended = call(*arguments)
        assert ended.code == 3, ended.err
        assert "Traceback" not in ended.err
        assert "next:" in ended.err
        for word in words:
            assert word in ended.flat
    assert list(room.iterdir()) == []
    unpacked = Path(os.environ["PUDISTILL_CACHE"]) / "bundles"
    assert not unpacked.exists() or list(unpacked.iterdir()) == []


def test_a_good_one_is_unpacked_as_it_is(tmp_path: Path, call: Call) -> None:
    ended = call("bundle", "--open", str(archive(tmp_path / "x.pudi")), "-o", str(tmp_path / "out"))
    assert ended.code == 0, ended.err
    found = {str(p.relative_to(tmp_path / "out")): p.read_bytes() for p in (tmp_path / "out").rglob("*") if p.is_file()}
    assert found == FILES


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such modes")
def test_files_are_for_their_owner_only_whatever_the_archive_says(tmp_path: Path, call: Call) -> None:
    mode = stat.S_IFREG | stat.S_ISUID | stat.S_ISGID | 0o777
    path = archive(tmp_path / "x.pudi", mode=mode, special="a.txt")
    assert call("bundle", "--open", str(path), "-o", str(tmp_path / "out")).code == 0
    modes = {p.name: stat.S_IMODE(p.lstat().st_mode) for p in ((tmp_path / "out"), *(tmp_path / "out").rglob("*"))}
    assert modes == {"out": 0o700, "a.txt": 0o600, "folder": 0o700, "b.txt": 0o600, "recipe.yaml": 0o600}


def test_a_folder_that_is_there_is_left_alone(tmp_path: Path, call: Call) -> None:
    (tmp_path / "out").mkdir()
    ended = call("bundle", "--open", str(archive(tmp_path / "x.pudi")), "-o", str(tmp_path / "out"))
    assert ended.code == 2
    assert "is there already" in ended.flat
    assert list((tmp_path / "out").iterdir()) == []


# --- names ---


@pytest.mark.parametrize(
    ("name", "word"),
    [
        ("/etc/passwd", "absolute"),
        ("//server/share", "absolute"),
        ("../outside", "leads out"),
        ("a/../../outside", "leads out"),
        ("a/..", "leads out"),
        ("C:/windows", "drive letter"),
        ("c:relative", "drive letter"),
        ("..\\outside", "backslash"),
        ("a\\b", "backslash"),
        ("", "no name"),
        (".", "letters, digits"),
        ("./a", "letters, digits"),
        ("a//b", "letters, digits"),
        ("folder/", "letters, digits"),
        (".hidden", "letters, digits"),
        ("-rf", "letters, digits"),
        ("a b", "letters, digits"),
        ("ab:stream", "letters, digits"),
        ("a\nb", "letters, digits"),
        ("\x1b[2Ja", "letters, digits"),
        ("a\u202etxt", "letters, digits"),
        ("ﬁle", "letters, digits"),
        ("file.", "letters, digits"),
        ("nul", "device"),
        ("a/CON.txt", "device"),
        ("com1", "device"),
        ("x" * 201, "201 characters"),
        ("/".join("abcdefghi"), "9 parts"),
    ],
)
def test_names_that_lead_elsewhere(name: str, word: str, tmp_path: Path, call: Call) -> None:
    refused(archive(tmp_path / "x.pudi", [(name, b"one")]), call, word)


def test_a_name_with_a_zero_in_it(tmp_path: Path, call: Call) -> None:
    path = archive(tmp_path / "x.pudi", [("aXb", b"one")], listed({"a": b"one"}))
    path.write_bytes(path.read_bytes().replace(b"aXb", b"a\0b"))
    refused(path, call, "letters, digits")


@pytest.mark.parametrize(
    ("names", "word"),
    [
        (("a", "a"), "a comes twice"),
        (("a", "A"), "a and A are one file"),
        (("folder/a", "Folder/b"), "folder and Folder are one folder"),
        (("a", "a/b"), "a is a file, and a/b lies below it"),
        (("A/b", "a"), "a is a file, and A/b lies below it"),
        (("Manifest.json",), "are one file"),
    ],
)
def test_names_that_are_one_place(names: tuple[str, ...], word: str, tmp_path: Path, call: Call) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # zipfile's, of the one that comes twice
        refused(archive(tmp_path / "x.pudi", [(name, b"one") for name in names]), call, word)


# --- what is no plain file ---


@pytest.mark.parametrize(
    ("kind", "word"),
    [
        (stat.S_IFLNK, "a link"),
        (stat.S_IFDIR, "a folder"),
        (stat.S_IFIFO, "a pipe"),
        (stat.S_IFSOCK, "a socket"),
        (stat.S_IFCHR, "a device"),
        (stat.S_IFBLK, "a device"),
        (0o050000, "no plain file"),
    ],
)
def test_what_is_no_plain_file(kind: int, word: str, tmp_path: Path, call: Call) -> None:
    refused(archive(tmp_path / "x.pudi", mode=kind | 0o777, special="a.txt"), call, f"'a.txt' is {word}")


@pytest.mark.parametrize("compression", [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_a_compressed_file_could_be_a_bomb(compression: int, tmp_path: Path, call: Call) -> None:
    members = [("a.txt", bytes(10_000_000))]
    refused(archive(tmp_path / "x.pudi", members, special="a.txt", compression=compression), call, "is compressed")


def test_an_encrypted_file(tmp_path: Path, call: Call) -> None:
    path = archive(tmp_path / "x.pudi")
    data = bytearray(path.read_bytes())
    data[data.index(b"PK\x01\x02") + 8] |= 1
    path.write_bytes(data)
    refused(path, call, "is encrypted")


# --- the manifest ---


def test_no_manifest(tmp_path: Path, call: Call) -> None:
    with zipfile.ZipFile(tmp_path / "x.pudi", "w") as out:
        out.writestr("a.txt", "one")
    refused(tmp_path / "x.pudi", call, "no manifest.json")


def test_a_file_that_the_manifest_does_not_name(tmp_path: Path, call: Call) -> None:
    path = archive(tmp_path / "x.pudi", [*FILES.items(), ("more", b"")], listed(FILES))
    refused(path, call, "more is not in its manifest")


def test_a_file_that_is_missing(tmp_path: Path, call: Call) -> None:
    refused(
        archive(tmp_path / "x.pudi", manifest=listed(FILES | {"more": b""})), call, "more is in its manifest, and not"
    )


def test_a_size_that_is_not_the_manifest_s(tmp_path: Path, call: Call) -> None:
    path = archive(tmp_path / "x.pudi", manifest=listed(FILES | {"a.txt": b"longer"}))
    refused(path, call, "a.txt has 3 bytes, and by the manifest 6")


def test_a_sum_that_is_not_the_manifest_s(tmp_path: Path, call: Call) -> None:
    path = archive(tmp_path / "x.pudi", manifest=listed(FILES | {"folder/b.txt": b"owt"}))
    refused(path, call, "folder/b.txt is damaged: its SHA-256 is")


@pytest.mark.parametrize(
    ("manifest", "word"),
    [
        (b"", "no JSON"),
        (b"\xff\xfe", "no JSON"),
        (b"{", "no JSON"),
        (b"[]", "Input should be"),
        (b'{"pudistill_bundle": 1, "pudistill_bundle": 1}', "comes twice"),
        (b"[" * 100_000, "nested too deep"),
        (listed(FILES, pudistill_bundle=2), "not of the format 1"),
        (listed(FILES, kind="program"), "kind"),
        (listed(FILES, version="\x1b[2J"), "version"),
        (listed(FILES, created=20261130), "created"),
        (listed(FILES, run="rm"), "run"),
        (listed({}), "files"),
        (listed(FILES, files={"a.txt": {"size": -1, "sha256": "0" * 64}}), "size"),
        (listed(FILES, files={"a.txt": {"size": True, "sha256": "0" * 64}}), "size"),
        (listed(FILES, files={"a.txt": {"size": 1e300, "sha256": "0" * 64}}), "size"),
        (listed(FILES, files={"a.txt": {"size": 10**40, "sha256": "0" * 64}}), "size"),
        (listed(FILES, files={"a.txt": {"size": 3, "sha256": "0"}}), "sha256"),
        (listed(FILES, files={"../a": {"size": 3, "sha256": "0" * 64}}), "leads out"),
        (listed(FILES, files={"manifest.json": {"size": 3, "sha256": "0" * 64}}), "manifest.json comes twice"),
    ],
)
def test_a_manifest_that_is_none(manifest: Any, word: str, tmp_path: Path, call: Call) -> None:
    refused(archive(tmp_path / "x.pudi", manifest=manifest), call, word)


def test_a_manifest_of_many_megabytes(tmp_path: Path, call: Call) -> None:
    refused(archive(tmp_path / "x.pudi", manifest=b" " * 5_000_000), call, "manifest.json has 5,000,000 bytes")


# --- damage ---


def test_cut_off_anywhere(tmp_path: Path) -> None:
    whole = archive(tmp_path / "x.pudi").read_bytes()
    cut = tmp_path / "cut.pudi"
    for length in range(len(whole)):
        cut.write_bytes(whole[:length])
        with pytest.raises(DataError, match="cannot be used as a bundle"), Bundle(cut) as bundle:
            bundle.check(lambda n: None)


def test_a_bit_flipped_anywhere_is_noticed_or_changes_nothing(tmp_path: Path) -> None:
    whole = archive(tmp_path / "x.pudi").read_bytes()
    path = tmp_path / "flipped.pudi"
    unnoticed = 0
    for place in range(len(whole)):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 0x10]) + whole[place + 1 :])
        try:
            with Bundle(path) as bundle:
                bundle.check(lambda n: None)
                assert {n: e.size for n, e in bundle.manifest.files.items()} == {n: len(d) for n, d in FILES.items()}
                unnoticed += 1
        except DataError:
            pass
    # Times, versions and the like, which nobody reads: what the files hold is covered by the sums.
    assert unnoticed < len(whole) / 2


def test_cut_off_says_so(tmp_path: Path, call: Call) -> None:
    path = archive(tmp_path / "x.pudi")
    path.write_bytes(path.read_bytes()[:-30])
    refused(path, call, "it is cut off, or no bundle", "Copy it again")


def test_other_files(tmp_path: Path) -> None:
    for content in (b"", b"PK", b"name: x\n", b"PK\x05\x06" + bytes(18), b"\x1f\x8b" + bytes(99)):
        (tmp_path / "x.pudi").write_bytes(content)
        with pytest.raises(DataError, match="cannot be used as a bundle"):
            Bundle(tmp_path / "x.pudi")


def test_something_before_or_behind_the_files(tmp_path: Path, call: Call) -> None:
    path = archive(tmp_path / "x.pudi")
    path.write_bytes(b"#!/bin/sh\n" + path.read_bytes())
    refused(path, call, "something stands before")
    path = archive(tmp_path / "y.pudi")
    path.write_bytes(path.read_bytes() + b"more")
    with pytest.raises(DataError, match="cannot be used"):
        Bundle(path)


def test_files_that_overlap(tmp_path: Path) -> None:
    """Many names for the same bytes: what is unpacked would be larger than the archive."""
    data = bytes(100_000)
    path = archive(tmp_path / "x.pudi", [("a", data), ("b", data)])
    whole = path.read_bytes()
    directory = whole.index(b"PK\x01\x02")
    second = whole.index(b"PK\x03\x04", 10)
    third = whole.index(b"PK\x03\x04", second + 10)
    # Without b's bytes, its entry leads to a's, and the manifest's place is mended.
    short = bytearray(whole[:second] + whole[third:])
    gone = third - second
    start = directory - gone
    entries = [start, short.index(b"PK\x01\x02", start + 4)]
    entries.append(short.index(b"PK\x01\x02", entries[1] + 4))
    struct.pack_into("<L", short, entries[1] + 42, 0)
    struct.pack_into("<L", short, entries[2] + 42, second)
    struct.pack_into("<L", short, len(short) - 6, start)
    path.write_bytes(short)
    with pytest.raises(DataError, match="overlap"):
        Bundle(path)


def test_a_directory_that_says_it_is_huge(tmp_path: Path) -> None:
    path = archive(tmp_path / "x.pudi")
    whole = path.read_bytes()
    for count, size, start in ((60_000, 100, 0), (3, 1 << 31, 0), (3, 200, 1 << 31)):
        end = struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, count, count, size, start, 0)
        path.write_bytes(whole[:-22] + end)
        with pytest.raises(DataError, match="cannot be used"):
            Bundle(path)


def test_more_files_than_a_bundle_may_hold(tmp_path: Path) -> None:
    path = archive(tmp_path / "x.pudi", [(f"f{i}", b"") for i in range(10_001)])
    with pytest.raises(DataError, match="it says that it holds 10,002 files"):
        Bundle(path)


def test_sixty_four_bit_records_at_the_end(tmp_path: Path) -> None:
    """As a bundle of more than 4 GiB ends; those that do not fit each other are refused."""
    path = archive(tmp_path / "x.pudi")
    whole = path.read_bytes()
    *_, count, size, start, _ = struct.unpack("<4s4H2LH", whole[-22:])
    first = len(whole) - 22

    def ended(size: int, place: int) -> bytes:
        record = struct.pack("<4sQ2H2L4Q", b"PK\x06\x06", 44, 45, 45, 0, 0, count, count, size, start)
        locator = struct.pack("<4sLQL", b"PK\x06\x07", 0, place, 1)
        return (
            record + locator + struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, count, count, 1 << 32 - 1, 1 << 32 - 1, 0)
        )

    path.write_bytes(whole[:-22] + ended(size, first))
    with Bundle(path) as bundle:
        bundle.check(lambda n: None)
        assert bundle.manifest.files.keys() == FILES.keys()
    for wrong in (ended(size, first - 1), ended(1 << 62, first), ended(size - 1, first)):
        path.write_bytes(whole[:-22] + wrong)
        with pytest.raises(DataError, match="cannot be used"):
            Bundle(path)


def test_what_is_taken_for_a_bundle(tmp_path: Path) -> None:
    path = archive(tmp_path / "renamed.yaml")
    assert is_bundle(path)
    (tmp_path / "x.pudi").write_text("name: x\n")
    assert is_bundle(tmp_path / "x.pudi")
    (tmp_path / "x.yaml").write_text("name: x\n")
    assert not is_bundle(tmp_path / "x.yaml")
    assert not is_bundle(tmp_path)
    assert not is_bundle(tmp_path / "none.pudi")


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such files")
def test_a_pipe_is_not_waited_for(tmp_path: Path, call: Call) -> None:
    os.mkfifo(tmp_path / "x.pudi")
    for path in (tmp_path / "x.pudi", tmp_path / "none.pudi", tmp_path, Path("/dev/zero")):
        ended = call("bundle", "--open", str(path), "-o", str(tmp_path / "out"))
        assert ended.code == 3
        assert "There is no file" in ended.flat
    assert call("run", str(tmp_path / "x.pudi")).code == 2


def test_no_room_is_said_before_a_byte_is_written(tmp_path: Path, call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    from pudistill_cli.bundle import opening

    path = archive(tmp_path / "x.pudi")
    usage = type("Usage", (), {"free": 1000})
    monkeypatch.setattr(opening.shutil, "disk_usage", lambda path: usage)
    refused(path, call, "0.0 GB are free", "Make room")


@pytest.mark.parametrize(("error", "code"), [(OSError(28, "No space left on device"), 3), (KeyboardInterrupt(), 130)])
def test_a_disk_that_fills_or_ctrl_c_while_unpacking_leaves_nothing(
    error: BaseException, code: int, tmp_path: Path, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = Bundle._copy
    path = archive(tmp_path / "x.pudi")

    def interrupted(self: Bundle, name: str, *arguments: Any) -> None:
        copy(self, name, *arguments)
        if name == "folder/b.txt":
            raise error

    monkeypatch.setattr(Bundle, "_copy", interrupted)
    ended = call("bundle", "--open", str(path), "-o", str(tmp_path / "out"))
    assert ended.code == code, ended.err
    assert "Traceback" not in ended.err
    assert [p.name for p in tmp_path.iterdir()] == ["x.pudi"]


def test_damage_found_while_unpacking_leaves_nothing(tmp_path: Path, call: Call) -> None:
    """The last file is the damaged one: the first has been written by then."""
    data = FILES | {"z.txt": b"three"}
    path = archive(tmp_path / "x.pudi", tuple(data.items()))
    path.write_bytes(path.read_bytes().replace(b"three", b"threE", 1))
    refused(path, call, "z.txt is damaged")


def test_the_manifest_is_readable_by_anyone(tmp_path: Path) -> None:
    with zipfile.ZipFile(archive(tmp_path / "x.pudi")) as zipped:
        assert json.loads(zipped.read("manifest.json"))["kind"] == "job"
