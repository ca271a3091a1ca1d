"""What a run resolves by trying: each backend that measures is asked for its own spec, and the rest stays by rule."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from pudistill_cli.backend_api.contract import ModelSpec
from pudistill_cli.run.plan import Plan, measured

SPEC = ModelSpec(Path("student.gguf"), (1,), 128, options={"kv": "f16"})
LEARNERS = ModelSpec(Path("student"), (1,), 128)
BY_RULE = {"device": "cpu", "threads": "8", "token_budget": "512", "engine.threads": "8", "engine.quant": "file"}


class Measuring:
    """A backend that finds something, and what it was asked."""

    def __init__(self, **found: str) -> None:
        self.found = found
        self.asked: list[tuple[ModelSpec, float | None]] = []

    def measured(self, spec: ModelSpec, weights_gib: float | None) -> dict[str, str]:
        self.asked.append((spec, weights_gib))
        return self.found


def plan_of(engine: object, learner: object, resolved: dict[str, str]) -> Plan:
    choice = SimpleNamespace(engine=engine, learner=learner, engine_weights_gib=3.5)
    checked = SimpleNamespace(choice=choice, resolved=resolved, spec=SPEC, learner_spec=LEARNERS)
    return cast("Plan", cast("Any", checked))


def test_engine_and_learner_are_asked_for_their_own() -> None:
    engine, learner = Measuring(threads="4", quant="bf16"), Measuring(device="cpu", threads="2")
    found = measured(plan_of(engine, learner, BY_RULE))
    assert found == {**BY_RULE, "threads": "2", "engine.threads": "4", "engine.quant": "bf16"}
    assert engine.asked == [(SPEC, 3.5)]
    assert learner.asked == [(LEARNERS, None)]


@pytest.mark.parametrize("engine", [object(), Measuring(threads="4")])
def test_an_engine_that_shares_the_learners_model_is_not_asked(engine: object) -> None:
    by_rule = {"device": "cpu", "threads": "8", "token_budget": "512"}
    assert measured(plan_of(engine, Measuring(threads="1"), by_rule)) == {**by_rule, "threads": "1"}
    assert not getattr(engine, "asked", [])


def test_backends_that_do_not_measure_go_by_their_rules() -> None:
    assert measured(plan_of(object(), object(), BY_RULE)) == BY_RULE
