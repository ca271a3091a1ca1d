"""What stays in a folder, links and dots followed, as any system reads it."""

from __future__ import annotations

from pathlib import Path

import pytest

from pudistill_cli.files.paths_inside import RUN_NAME, goes_up, leads_inside


def test_a_path_is_inside_where_it_ends(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    (folder / "sub").mkdir(parents=True)
    (tmp_path / "folder-2").mkdir()
    (folder / "out").symlink_to(tmp_path)
    (folder / "in").symlink_to("sub")
    (folder / "round").symlink_to("round")
    for inside in (".", "sub", "sub/..", "in/x", "not/there", "out/folder/sub", "round"):
        assert leads_inside(folder, folder / inside), inside
    for outside in ("..", "out", "out/x", "../folder-2", "sub/../../x", str(tmp_path)):
        assert not leads_inside(folder, folder / outside), outside
    with pytest.raises(ValueError):
        leads_inside(folder, folder / "\0")


@pytest.mark.parametrize("name", ["../x", "a/../b", "..", "/x", "\\x", "C:\\x", "C:x", "a\\..\\b", "//host/share/x"])
def test_names_that_are_more_than_a_way_down(name: str) -> None:
    assert goes_up(name)


@pytest.mark.parametrize("name", ["x", "a/b.safetensors", "..x", "x..", "a/.../b", "./x"])
def test_names_that_are_a_way_down(name: str) -> None:
    assert not goes_up(name)


def test_names_of_runs() -> None:
    assert all(map(RUN_NAME.fullmatch, ("a", "8b", "my-run_2.1", "a..b", "x" * 100)))
    assert not any(map(RUN_NAME.fullmatch, ("", ".", "..", ".a", "-a", "_a", "a/b", "a b", "ä", "x" * 101, "a\n")))
