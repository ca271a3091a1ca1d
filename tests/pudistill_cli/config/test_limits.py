"""Every number of the recipe has bounds that no use meets."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields
from typing import Any

import pytest
from pydantic import BaseModel, ValidationError

from pudistill_cli.config.fields import sections_in
from pudistill_cli.config.objective_settings import objective_from
from pudistill_cli.config.schema import Recipe
from pudistill_cli.method.objectives.registry import OBJECTIVES

SMALLEST: dict[str, Any] = {
    "name": "a",
    "student": {"model": "s"},
    "teacher": {"kind": "file", "path": "anchors.jsonl"},
    "prompts": {"path": "p.jsonl"},
}
TEACHERS: dict[str, dict[str, Any]] = {
    "EndpointTeacher": {"kind": "openai", "model": "m"},
    "LocalTeacher": {"kind": "local", "model": "m"},
}


def sections(model: type[BaseModel]) -> Iterator[type[BaseModel]]:
    yield model
    for field in model.model_fields.values():
        for section in sections_in(field.annotation):
            yield from sections(section)


def numbers(schema: Any, place: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every place of a JSON schema that takes a number; `$defs` are sections of their own."""
    if isinstance(schema, dict):
        if schema.get("type") in ("integer", "number"):
            yield place, schema
        for key, part in schema.items():
            if key not in ("$defs", "default"):
                yield from numbers(part, f"{place}.{key}")
    elif isinstance(schema, list):
        for part in schema:
            yield from numbers(part, place)


def unbounded(model: type[BaseModel]) -> list[str]:
    return [
        place
        for place, schema in numbers(model.model_json_schema(), model.__name__)
        if not ({"minimum", "exclusiveMinimum"} & schema.keys() and {"maximum", "exclusiveMaximum"} & schema.keys())
    ]


def test_every_number_of_the_schema_has_a_lower_and_an_upper_bound() -> None:
    found = list(dict.fromkeys(sections(Recipe)))
    assert len(found) > 12
    assert sum(len(list(numbers(model.model_json_schema(), ""))) for model in found) > 40
    assert [place for model in found for place in unbounded(model)] == []


def test_a_number_without_bounds_would_be_found() -> None:
    class Section(BaseModel):
        free: int | None = None

    assert unbounded(Section) == ["Section.properties.free.anyOf"]


@pytest.mark.parametrize("value", [10**30, 1e30, -1e30, float("inf"), float("nan")])
def test_absurd_numbers_are_refused_everywhere(value: float) -> None:
    """Also where a bound would not be seen in the schema, as in the objectives' settings."""
    for name, objective in OBJECTIVES.items():
        for setting in fields(objective):  # type: ignore[arg-type]
            with pytest.raises(ValueError):
                objective_from({"name": name, setting.name: value})
    free = ("template_kwargs", "extra_body")  # passed on as they are
    for model in dict.fromkeys(sections(Recipe)):
        schema = model.model_json_schema()["properties"]
        for key, part in schema.items():
            if key in free or not list(numbers(part, "")):
                continue
            with pytest.raises(ValidationError):
                model.model_validate(TEACHERS.get(model.__name__, {}) | {key: [value] if "items" in part else value})


@pytest.mark.parametrize(
    ("section", "key"),
    [("prefer", "tau"), ("prefer", "temperature"), ("sft", "lr"), ("train", "clip_norm"), ("lora", "alpha")],
)
def test_numbers_that_are_nearly_nothing_are_refused_where_something_is_divided_by_them(section: str, key: str) -> None:
    for tiny in (0, 1e-320, 1e-13):
        with pytest.raises(ValidationError, match="greater than or equal to"):
            Recipe.model_validate(SMALLEST | {section: {key: tiny}})
    with pytest.raises(ValidationError, match=r"must be 0 \(greedy\) or at least 0\.001"):
        Recipe.model_validate(SMALLEST | {"eval": {"temperatures": [1e-9]}})


def test_what_people_write_is_in_the_bounds() -> None:
    recipe = Recipe.model_validate(
        SMALLEST
        | {
            "seed": 20261130235959123456 % 2**63,
            "student": {"model": "s", "context": 10_000_000, "threads": 512, "token_budget": 1 << 24},
            "lora": {"r": 1024, "alpha": 4096},
            "sft": {"lr": 1e-7, "epochs": 1000, "batch": 4096, "rewrite_temperature": 0.01},
            "prefer": {"k": 1024, "rounds": 500, "temperature": 0.01, "tau": 1e-4, "top_p": 0.01, "top_k": 1_000_000},
            "train": {"lr": 1e-9, "clip_norm": 1e-6, "weight_decay": 0.1, "warmup_steps": 100_000},
            "eval": {"temperatures": [0, 0.001, 2], "samples": 1000},
        }
    )
    assert recipe.lora.r == 1024
