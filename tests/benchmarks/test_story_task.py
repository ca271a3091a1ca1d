"""The benchmark's task of stories: what it writes, and what it says without the checkpoint."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.evidence.tasks import OUR_CODE, story
from benchmarks.fixtures.story.rubric import grade
from pudistill_cli.config.loading import load_recipe
from pudistill_cli.metrics.registry import measure_of

FILES = {"prompts": 100, "prompts-dev": 300, "prompts-test": 300, "prompts-other": 150, "anchors": 700}


@pytest.fixture
def checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that looks like one, with a name that YAML would read as something else."""
    folder = tmp_path / "stories: #260K"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    monkeypatch.setenv(story.CHECKPOINT, str(folder))
    return folder


def written(folder: Path, seed: int) -> dict[str, list[dict[str, str]]]:
    folder.mkdir()
    story.write(folder, seed)
    lines = {name: (folder / f"{name}.jsonl").read_text(encoding="utf-8").splitlines() for name in FILES}
    return {name: [json.loads(line) for line in found] for name, found in lines.items()}


def test_no_prompt_comes_twice_and_all_but_the_other_ones_have_an_anchor(checkpoint: Path, tmp_path: Path) -> None:
    found = written(tmp_path / "0", 0)
    assert {name: len(lines) for name, lines in found.items()} == FILES
    asked = [line["prompt"] for name in ("prompts", "prompts-dev", "prompts-test") for line in found[name]]
    everything = [*asked, *(line["prompt"] for line in found["prompts-other"])]
    assert len(set(everything)) == len(everything)
    assert [line["prompt"] for line in found["anchors"]] == asked


def test_a_seed_has_prompts_and_anchors_of_its_own_and_the_held_out_ones_of_all(
    checkpoint: Path, tmp_path: Path
) -> None:
    first, second = written(tmp_path / "0", 0), written(tmp_path / "1", 1)
    assert first == written(tmp_path / "again", 0)
    for name in ("prompts-dev", "prompts-test", "prompts-other"):
        assert first[name] == second[name]
    assert first["anchors"][100:] == second["anchors"][100:]
    shared = {line["prompt"] for line in first["prompts"]} & {line["prompt"] for line in second["prompts"]}
    assert not shared


def test_references_are_the_truth_that_the_anchors_meet(checkpoint: Path, tmp_path: Path) -> None:
    found = written(tmp_path / "0", 0)
    truth = {line["prompt"]: line["reference"] for name in FILES if name != "anchors" for line in found[name]}
    grades = [grade(line["answer"], truth[line["prompt"]], line["prompt"]) for line in found["anchors"]]
    assert 0.96 < sum(grades) / len(grades) < 1


def test_the_recipe_is_whole(checkpoint: Path, tmp_path: Path) -> None:
    written(tmp_path / "0", 0)
    recipe = load_recipe(str(tmp_path / "0" / "recipe.yaml")).recipe
    assert recipe.student.model == str(checkpoint)
    assert recipe.prompts.format == "text"
    metric = measure_of(recipe.eval.metric, OUR_CODE).metric
    assert metric is not None
    line = json.loads((tmp_path / "0" / "prompts-dev.jsonl").read_text().splitlines()[0])
    assert metric("", line["reference"], line["prompt"]) == 0


def test_without_the_checkpoint_it_says_what_to_set(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert story.problem() is None
    monkeypatch.setenv(story.CHECKPOINT, str(tmp_path / "nowhere"))
    assert story.problem() == (
        f"{tmp_path / 'nowhere'} holds no config.json: set PUDISTILL_STORIES260K to the folder of the checkpoint "
        "stories260K in Hugging Face form"
    )
    monkeypatch.delenv(story.CHECKPOINT)
    assert str(story.problem()).startswith("set PUDISTILL_STORIES260K to the folder of the checkpoint")
