"""A run whose files were moved is the same run; one whose files have other content is not."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.tiny import STUDENT, Ended, Tiny, lines_of, write_lines


@pytest.fixture
def project(tmp_path: Path, finished: Tiny) -> Tiny:
    """A finished run in a folder with all that its recipe names, student too, as if it had been made there."""
    tiny = Tiny.make(tmp_path / "first" / "project", student={"model": "student"})
    shutil.copytree(STUDENT, tiny.folder / "student")
    shutil.copytree(finished.runs, tiny.runs)
    return tiny


def moved(tiny: Tiny, folder: Path) -> Tiny:
    folder.parent.mkdir(exist_ok=True)
    tiny.folder.rename(folder)
    return Tiny.at(folder)


def test_a_moved_folder_holds_the_same_run_from_any_working_directory(
    project: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: Callable[..., Ended]
) -> None:
    assert call(*project.arguments()).code == 0
    before = project.bytes_of("adapters/*/*", "results.json", "export/*/*")
    there = moved(project, tmp_path / "second" / "renamed")
    monkeypatch.chdir(there.folder)
    for command in (["eval", "tiny"], ["export", "tiny", "--format", "adapter"], ["run", "runs/tiny/recipe.yaml"]):
        ended = call(*command)  # of recipe.yaml as it was written in the first place
        assert ended.code == 0, ended.err
    ended = call("run", "tiny.yaml")
    assert ended.code == 0, ended.err
    assert there.bytes_of("adapters/*/*", "results.json", "export/*/*") == before
    assert str(there.folder / "student") in (there.run / "recipe.yaml").read_text()


def test_a_run_whose_student_has_gone_says_what_to_type(
    project: Tiny, tmp_path: Path, call: Callable[..., Ended]
) -> None:
    assert call(*project.arguments()).code == 0
    (project.folder / "student").rename(tmp_path / "elsewhere")
    ended = call("export", "tiny", "--runs", str(project.runs))
    assert ended.code == 7
    assert f"names what is not there any more: {project.folder / 'student'}." in ended.flat
    assert f"pudistill run RECIPE --name tiny --runs {project.runs}" in ended.flat
    again = call(*project.arguments("--set", f"student.model={tmp_path / 'elsewhere'}", "--name", "tiny"))
    assert again.code == 0, again.err
    assert call("export", "tiny", "--format", "adapter", "--runs", str(project.runs)).code == 0


# --- the file of answers ---


def with_other_answers(tiny: Tiny, count: int) -> None:
    records = lines_of(tiny.folder / "anchors.jsonl")
    for record in records[:count]:
        record["answer"] = json.dumps({"changed": True})
    write_lines(tiny.folder / "anchors.jsonl", records)


def test_other_answers_to_a_runs_prompts_make_another_run(project: Tiny, call: Callable[..., Ended]) -> None:
    with_other_answers(project, 2)
    write_lines(  # a line for other prompts changes nothing
        project.folder / "anchors.jsonl",
        [{"prompt": "of another run", "answer": "x"}, *lines_of(project.folder / "anchors.jsonl")],
    )
    ended = call(*project.arguments())
    assert ended.code == 7
    assert (
        "anchors.jsonl has changed since the run took its answers from it: it has others, or none, to 2" in ended.flat
    )
    assert "teacher.fingerprint: " in ended.flat
    assert "--name tiny-2" in ended.flat


def test_answers_to_other_prompts_and_a_file_that_is_gone_change_nothing(
    project: Tiny, call: Callable[..., Ended]
) -> None:
    answers = project.folder / "anchors.jsonl"
    write_lines(answers, [*reversed(lines_of(answers)), {"prompt": "of another run", "answer": "x"}])
    ended = call(*project.arguments())
    assert (ended.code, "has changed" in ended.flat) == (0, False)
    kept = answers.read_bytes()
    answers.unlink()
    assert call(*project.arguments()).code == 0
    answers.write_bytes(kept)
    with_other_answers(project, 1)  # the run has not forgotten what they were
    assert call(*project.arguments()).code == 7


def test_before_sft_has_finished_other_answers_are_taken_aloud(tmp_path: Path, call: Callable[..., Ended]) -> None:
    tiny = Tiny.make(tmp_path)
    assert call(*tiny.arguments("--until", "anchors")).code == 0
    with_other_answers(tiny, 3)
    ended = call(*tiny.arguments("--until", "anchors"))
    assert ended.code == 0
    assert "to 3 prompts" in ended.flat
    assert "takes its answers anew" in ended.flat
    assert tiny.value("SELECT count(*) FROM anchors WHERE text LIKE '%changed%'") == 3


def test_of_a_run_from_before_its_answers_were_in_its_identity_they_stand(
    project: Tiny, call: Callable[..., Ended]
) -> None:
    record = project.run / "state" / "run.json"
    held = json.loads(record.read_text())
    del held["identity"]["teacher.fingerprint"]
    record.write_text(json.dumps(held))
    (project.run / ".run.json").unlink()
    with_other_answers(project, 1)
    ended = call(*project.arguments())
    assert ended.code == 0
    assert "tiny goes on with the answers that it took." in ended.flat
