"""What a run resolves by trying: each backend that measures is asked for its own spec, and the rest stays by rule."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from pudistill_cli.backend_api.contract import ModelSpec
from pudistill_cli.metrics.numbers import Number
from pudistill_cli.metrics.texts import Exact
from pudistill_cli.prompts import Prompt, PromptSets
from pudistill_cli.run.plan import Plan, measured, unreachable_references
from pudistill_cli.types import Message

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


def prompt(number: int, split: str, reference: str | None) -> Prompt:
    return Prompt(f"k{number}", (Message("user", "?"),), split, reference, f"{split}.jsonl", number)


def test_references_that_no_answer_can_meet_are_told_before() -> None:
    """Those of training prompts are not evaluated; without a reference the teacher's answer counts."""
    train = (prompt(1, "train", "no number"),)
    dev, test = (prompt(2, "dev", "7"), prompt(3, "dev", None)), (prompt(4, "test", "none"), prompt(5, "test", "?"))
    sets = PromptSets(train=train, dev=dev, test=test, extra={"more": (prompt(6, "more", "8"),)})
    assert unreachable_references(Number(), sets) == (
        "No answer to 2 of 4 held-out prompts can be right by eval.metric number: the reference of test.jsonl:4 "
        "has no number."
    )
    assert unreachable_references(Exact(), sets) is None


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
