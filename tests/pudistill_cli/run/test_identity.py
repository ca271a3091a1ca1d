"""Which stage a setting first matters for, and how differences read."""

from __future__ import annotations

import pytest

from pudistill_cli.config.schema import Recipe
from pudistill_cli.config.teacher import EndpointTeacher
from pudistill_cli.run.identity import NEUTRAL, STAGES, Difference, differences, stage_of_key, stage_of_mark


def test_every_section_of_the_recipe_has_its_stage():
    stages = {name: stage_of_key(f"{name}.x") for name in Recipe.model_fields if name != "name"}
    assert stages == {
        "seed": "sft",
        "student": "sft",
        "teacher": "anchors",
        "prompts": "prompts",
        "backend": "sft",
        "lora": "sft",
        "sft": "sft",
        "rank": "rank",
        "prefer": "prefer",
        "train": "prefer",
        "eval": "eval",
        "export": "export",
    }


def test_a_key_that_is_not_known_touches_everything():
    assert stage_of_key("new_section.x") == STAGES[0]


@pytest.mark.parametrize(
    ("mark", "stage"),
    [
        ("sft", "sft"),
        ("rank", "rank"),
        ("round-2", "prefer"),
        ("round-2/sample", "prefer"),
        ("dev/round-2", "eval"),
        ("eval", "eval"),
        ("export/hf", "export"),
    ],
)
def test_marks_of_the_ledger_belong_to_stages(mark: str, stage: str):
    assert stage_of_mark(mark) == stage


def test_differences_come_in_the_order_of_the_stages():
    old = {"eval.metric": "none", "prefer.k": "4", "seed": "0", "gone": "1"}
    new = {"eval.metric": "exact", "prefer.k": "8", "seed": "0", "teacher.kind": "file"}
    assert differences(old, new) == [
        Difference("gone", "1", None, "prompts"),
        Difference("teacher.kind", None, "file", "anchors"),
        Difference("prefer.k", "4", "8", "prefer"),
        Difference("eval.metric", "none", "exact", "eval"),
    ]
    assert [str(d) for d in differences(old, new)][:3] == [
        "gone: 1 -> (not there)",
        "teacher.kind: (not there) -> file",
        "prefer.k: 4 -> 8",
    ]


def test_a_long_value_is_cut_and_stays_on_its_line():
    (difference,) = differences({"rank.view": "a\nb" * 100}, {"rank.view": "c"})
    assert len(str(difference)) < 120
    assert "\n" not in str(difference)


def test_how_the_teacher_is_reached_makes_no_other_run():
    neutral = {key.removeprefix("teacher.") for key in NEUTRAL}
    assert neutral < set(EndpointTeacher.model_fields)
    assert differences(dict.fromkeys(NEUTRAL, "1"), dict.fromkeys(NEUTRAL, "2")) == []
    changes_answers = {"kind", "model", "base_url", "system", "temperature", "top_p", "max_tokens", "extra_body"}
    assert set(EndpointTeacher.model_fields) - neutral == changes_answers | {"max_tokens_field"}
