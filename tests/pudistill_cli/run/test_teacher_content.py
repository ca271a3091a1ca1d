"""What a teacher's part of a run's identity hangs on: content, and not where it lies."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from pudistill_cli.config.schema import Recipe
from pudistill_cli.config.stages import Stage
from pudistill_cli.prompts import PromptSets
from pudistill_cli.run.identity import differences, settings_of
from pudistill_cli.run.relocation import found_again, missing_files
from pudistill_cli.run.teacher_content import KEY, teacher_content
from tests.tiny import STUDENT

NO_PROMPTS = PromptSets(train=(), dev=(), test=())


def recipe(teacher: dict[str, Any], **sections: Any) -> Recipe:
    given = {"name": "x", "student": {"model": "org/name"}, "prompts": {"path": "/data/p.jsonl"}, **sections}
    return Recipe.model_validate({**given, "teacher": teacher})


def identity(given: Recipe) -> dict[str, str]:
    return settings_of(given) | teacher_content(given.teacher, NO_PROMPTS)


def local(path: Path) -> Recipe:
    return recipe({"kind": "local", "model": str(path)})


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return Path(shutil.copytree(STUDENT, tmp_path / "teacher"))


def test_a_local_teacher_may_be_moved(model: Path, tmp_path: Path) -> None:
    before = identity(local(model))
    model.rename(tmp_path / "moved")
    assert differences(before, identity(local(tmp_path / "moved"))) == []
    assert differences(before, identity(local(model))) == []  # it is not there: a run with all its answers needs none


def test_other_weights_are_another_teacher(model: Path) -> None:
    before = identity(local(model))
    weights = model / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x7f")
    (difference,) = differences(before, identity(local(model)))
    assert (difference.key, difference.stage) == (KEY, Stage.ANCHORS)


def test_so_is_another_file(tmp_path: Path) -> None:
    for name, content in (("a.gguf", b"GGUF1"), ("b.gguf", b"GGUF1"), ("c.gguf", b"GGUF2")):
        (tmp_path / name).write_bytes(content)
    a, b, c = (identity(local(tmp_path / f"{name}.gguf")) for name in "abc")
    assert differences(a, b) == []
    assert [d.key for d in differences(a, c)] == [KEY]


@pytest.mark.parametrize("teacher", [{"kind": "local", "model": "org/big"}, {"kind": "openai", "model": "big"}])
def test_what_lies_elsewhere_is_known_by_its_name(teacher: dict[str, Any]) -> None:
    first, second = (identity(recipe({**teacher, "model": name})) for name in ("org/big", "org/bigger"))
    assert KEY not in first
    assert [d.key for d in differences(first, second)] == ["teacher.model"]


def test_the_path_that_an_older_run_kept_of_a_local_teacher_does_not_count(model: Path) -> None:
    older = {**settings_of(local(model)), "teacher.model": "/elsewhere/teacher"}
    assert differences(older, identity(local(model))) == []


# --- files that were moved with the run ---


def test_paths_are_found_again_beside_the_run_where_nothing_lies_at_the_old_ones(tmp_path: Path) -> None:
    for name in ("student", "other/student"):
        (tmp_path / "new" / name).mkdir(parents=True)
    (tmp_path / "new" / "p.jsonl").touch()
    (tmp_path / "still-there.jsonl").touch()
    old = tmp_path / "old"
    given = recipe(
        {"kind": "file", "path": str(tmp_path / "still-there.jsonl")},
        student={"model": str(old / "student"), "original": "org/name"},
        prompts={"path": str(old / "p.jsonl"), "extra": {"more": str(old / "gone.jsonl")}},
    )
    found = found_again(given, old / "runs" / "x", tmp_path / "new" / "runs" / "x")
    assert (found.student.model, found.student.original) == (str(tmp_path / "new" / "student"), "org/name")
    assert found.prompts.path == str(tmp_path / "new" / "p.jsonl")
    assert found.teacher == given.teacher
    assert found.prompts.extra == given.prompts.extra
    assert missing_files(found) == [str(old / "gone.jsonl")]
    assert missing_files(given) == [str(old / "p.jsonl"), str(old / "student"), str(old / "gone.jsonl")]
