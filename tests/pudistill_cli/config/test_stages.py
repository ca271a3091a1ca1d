"""The one list of stages, and that the documentation says of it what the code does."""

from __future__ import annotations

from collections import Counter

import pytest

from pudistill_cli.config.fields import sections_in
from pudistill_cli.config.schema import Recipe
from pudistill_cli.config.stages import TITLES, Stage
from tests.tiny import ROOT


def stage_in(metadata: list[object]) -> Stage | None:
    return next((mark for mark in metadata if isinstance(mark, Stage)), None)


def fixed_by() -> dict[Stage, list[str]]:
    """The settings of each stage: a section at the stage of most of its fields, and single fields at others."""
    found: dict[Stage, list[str]] = {stage: [] for stage in Stage}
    for name, field in Recipe.model_fields.items():
        if stage := stage_in(field.metadata):
            found[stage].append(name)
        fields = [item for section in sections_in(field.annotation) for item in section.model_fields.items()]
        stages = [(key, stage) for key, inner in fields if (stage := stage_in(inner.metadata))]
        if stages:
            ((most, _),) = Counter(stage for _, stage in stages).most_common(1)
            found[most].append(name)
            for key, stage in stages:
                if stage is not most:
                    found[stage].append(f"{name}.{key}")
    return found


def table() -> str:
    """As docs/recipe.md has it."""
    lines = [
        f"| `{stage.title}` | {stage.about} | {', '.join(f'`{name}`' for name in names)} |"
        for stage, names in fixed_by().items()
    ]
    return "\n".join(["| stage | what happens | settings that it fixes |", "|---|---|---|", *lines])


def test_the_documentation_has_the_stages_and_what_each_fixes() -> None:
    assert table() in (ROOT / "docs" / "recipe.md").read_text(encoding="utf-8")


def test_stages_come_in_the_order_of_the_loop() -> None:
    assert TITLES == ("prompts", "anchors", "sft", "rank", "prefer", "eval", "export")
    assert [stage.place for stage in Stage] == list(range(7))
    assert Stage.SFT.precedes(Stage.RANK)
    assert not Stage.SFT.precedes(Stage.SFT)


@pytest.mark.parametrize("title", TITLES)
def test_a_stage_is_found_by_its_title(title: str) -> None:
    stage = Stage.named(title)
    assert stage is not None
    assert stage.title == title


def test_a_title_of_no_stage_finds_none() -> None:
    assert Stage.named("sfft") is None
