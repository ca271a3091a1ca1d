"""The note task of the evidence benchmark: what it writes for a seed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.evidence.tasks import OUR_CODE, note
from benchmarks.fixtures.note.rubric import Spec, grade
from pudistill_cli.config.loading import load_recipe
from pudistill_cli.metrics.registry import measure_of

HELD_OUT = ("prompts-dev.jsonl", "prompts-test.jsonl", "prompts-other.jsonl")


@pytest.fixture(scope="module")
def seed_3(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("seed-3")
    note.write(folder, 3)
    return folder


def lines(path: Path) -> list[dict[str, str]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_the_same_seed_gives_the_same_bytes_and_another_seed_its_own_training_prompts(
    seed_3: Path, tmp_path: Path
) -> None:
    note.write(tmp_path / "again", 3)
    note.write(tmp_path / "other", 4)
    for path in seed_3.iterdir():
        assert (tmp_path / "again" / path.name).read_bytes() == path.read_bytes()
    for name in HELD_OUT:
        assert (tmp_path / "other" / name).read_bytes() == (seed_3 / name).read_bytes()
    own, others = ({one["prompt"] for one in lines(f / "prompts.jsonl")} for f in (seed_3, tmp_path / "other"))
    assert len(own & others) < 5  # two short requests may be alike


def test_no_prompt_occurs_twice_and_each_that_is_learned_or_judged_has_one_anchor(seed_3: Path) -> None:
    prompts = {path.name: [one["prompt"] for one in lines(path)] for path in seed_3.glob("prompts*.jsonl")}
    assert {name: len(texts) for name, texts in prompts.items()} == {
        "prompts.jsonl": 100,
        "prompts-dev.jsonl": 300,
        "prompts-test.jsonl": 300,
        "prompts-other.jsonl": 450,
    }
    every = [text for texts in prompts.values() for text in texts]
    assert len(set(every)) == len(every)
    answered = [one["prompt"] for one in lines(seed_3 / "anchors.jsonl")]
    assert answered == [text for name in ("prompts.jsonl", *HELD_OUT[:2]) for text in prompts[name]]


def test_the_anchors_are_good_by_the_recipe_s_own_metric(seed_3: Path) -> None:
    references = {one["prompt"]: one["reference"] for path in seed_3.glob("prompts*.jsonl") for one in lines(path)}
    metric = measure_of(load_recipe(str(seed_3 / "recipe.yaml"), []).recipe.eval.metric, OUR_CODE).metric
    assert metric is not None
    anchors = lines(seed_3 / "anchors.jsonl")
    worths = [metric(one["answer"], references[one["prompt"]], one["prompt"]) for one in anchors]
    assert sum(worth == 1 for worth in worths) / len(worths) == pytest.approx(0.96, abs=0.03)
    assert worths[0] == grade(anchors[0]["answer"], references[anchors[0]["prompt"]])


def test_the_recipe_says_where_everything_is_and_the_references_are_specs(seed_3: Path) -> None:
    recipe = load_recipe(str(seed_3 / "recipe.yaml"), []).recipe
    assert (recipe.prompts.limit, recipe.prefer.k, recipe.prefer.rounds) == (None, 4, 1)
    assert Path(recipe.student.model).is_absolute()
    assert list(recipe.prompts.extra) == ["other"]
    assert all(Spec.from_json(one["reference"]).facts for one in lines(seed_3 / "prompts-other.jsonl"))
    assert note.problem() is None
