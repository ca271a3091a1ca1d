"""Which stage a setting first matters for, and how differences read."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from pudistill_cli.config.fields import sections_in
from pudistill_cli.config.schema import Recipe
from pudistill_cli.config.stages import Effect, Stage
from pudistill_cli.run.identity import CHECKED_BY, METRIC_FILE, Difference, differences, effects_of, stage_of


def settings(section: type[BaseModel] = Recipe, path: str = "") -> Iterator[tuple[str, FieldInfo]]:
    """Every setting of a recipe by dotted key, those of each kind of teacher too, with its field."""
    for name, field in section.model_fields.items():
        inner = sections_in(field.annotation)
        yield from (found for part in inner for found in settings(part, f"{path}{name}."))
        if not inner:
            yield f"{path}{name}", field


@pytest.mark.parametrize(("key", "field"), [pytest.param(*found, id=found[0]) for found in settings()])
def test_every_setting_says_on_its_field_what_a_change_of_it_redoes(key: str, field: FieldInfo) -> None:
    stages = [mark for mark in field.metadata if isinstance(mark, Stage)]
    instead = [mark for mark in field.metadata if mark in (Effect.NONE, Effect.BY_CONTENT)]
    assert len(stages) + len(instead) == 1


@pytest.mark.parametrize(
    ("key", "stage"),
    [
        ("version", Stage.PROMPTS),
        ("prompts.fingerprint", Stage.PROMPTS),
        ("prompts.dev_share", Stage.PROMPTS),
        ("teacher.extra_body.seed", Stage.ANCHORS),
        ("student.fingerprint", Stage.SFT),
        ("student.template_kwargs.enable_thinking", Stage.SFT),
        ("backend.resolved", Stage.SFT),
        ("seed", Stage.SFT),
        ("rank.view", Stage.SFT),  # what rewrites are written behind
        ("prefer.max_new_tokens", Stage.SFT),  # how long they may be
        ("train.clip_norm", Stage.SFT),
        ("train.weight_decay", Stage.SFT),
        ("rank.scorer", Stage.RANK),
        ("prefer.k", Stage.PREFER),
        ("train.objective.beta", Stage.PREFER),
        ("eval.metric", Stage.EVAL),
        ("eval.metric.fields.a.b", Stage.EVAL),
        (METRIC_FILE, Stage.EVAL),
        (CHECKED_BY, Stage.ANCHORS),
        ("export.original", Stage.EXPORT),
    ],
)
def test_a_setting_matters_from_the_first_stage_that_uses_it(key: str, stage: Stage) -> None:
    assert stage_of(key) is stage


@pytest.mark.parametrize("key", ["new_section.x", "sft.new_setting", "sft"])
def test_a_key_that_is_not_known_touches_everything(key: str) -> None:
    assert stage_of(key) is Stage.PROMPTS


@pytest.mark.parametrize("key", ["eval.metric", "eval.metric.name", "eval.metric.pattern", METRIC_FILE])
def test_another_metric_looks_at_the_same_answers(key: str) -> None:
    assert Effect.SAME_ANSWERS in effects_of(key)


def test_a_setting_that_an_older_run_did_not_have_is_one_left_open() -> None:
    assert differences({}, {"teacher.min_score": "None"}) == differences({"gone": "None"}, {}) == []
    assert differences({}, {"teacher.min_score": "0.5"}) == [
        Difference("teacher.min_score", None, "0.5", Stage.ANCHORS)
    ]


def test_differences_come_in_the_order_of_the_stages():
    old = {"eval.metric": "none", "prefer.k": "4", "seed": "0", "gone": "1"}
    new = {"eval.metric": "exact", "prefer.k": "8", "seed": "0", "teacher.kind": "file"}
    assert differences(old, new) == [
        Difference("gone", "1", None, Stage.PROMPTS),
        Difference("teacher.kind", None, "file", Stage.ANCHORS),
        Difference("prefer.k", "4", "8", Stage.PREFER),
        Difference("eval.metric", "none", "exact", Stage.EVAL),
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


def test_how_the_teacher_is_reached_and_where_a_tool_lies_make_no_other_run() -> None:
    neutral = {key for key, _ in settings() if Effect.NONE in effects_of(key)}
    assert neutral == {
        f"teacher.{name}"
        for name in (
            "api_key_env", "concurrency", "timeout", "retries", "max_calls", "max_tokens_total", "max_cost",
            "price_in", "price_out",
        )
    } | {"export.llama_cpp"}  # fmt: skip
    assert differences(dict.fromkeys(neutral, "1"), dict.fromkeys(neutral, "2")) == []
