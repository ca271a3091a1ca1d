"""Whole runs by an objective and a scorer that the product does not have, each registered by one line."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from pudistill_cli.method.objectives.registry import OBJECTIVES
from pudistill_cli.method.scorers.registry import SCORERS
from tests.backends.contract.running import running
from tests.pudistill_cli.method.outside import NegativesFollow, Odds
from tests.tiny import Ended, Tiny

Call = Callable[..., Ended]
OBJECTIVE = {"name": "negatives-follow", "anchor_nll": 0.5}


@pytest.fixture(autouse=True)
def registered(monkeypatch: pytest.MonkeyPatch) -> None:
    """As `OBJECTIVES[NegativesFollow.name] = NegativesFollow`, for the length of a test."""
    monkeypatch.setitem(OBJECTIVES, NegativesFollow.name, NegativesFollow)
    monkeypatch.setitem(SCORERS, Odds().name, Odds())


@pytest.mark.parametrize("backend", ["torch", "mlx"])
def test_a_run_by_both_on_either_learner(backend: str, tmp_path: Path, call: Call) -> None:
    """The run gives them what they say they need: posteriors, the judge's distributions, the anchor in view."""
    running(backend)
    tiny = Tiny.make(tmp_path, backend=backend, train={"objective": OBJECTIVE}, rank={"scorer": "odds"})
    ended = call(*tiny.arguments("--until", "eval"))
    assert ended.code == 0, ended.err
    assert "gate: odds puts the anchor above" in ended.flat
    assert tiny.rows("SELECT DISTINCT scorer FROM scores ORDER BY 1") == [("odds",), ("posterior",)]
    assert json.loads(tiny.value("SELECT detail FROM stages WHERE name = 'round-2'"))["objective"] == "negatives-follow"
    steps = [json.loads(line) for line in (tiny.run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [step["follow"] > 0 for step in steps if "follow" in step] == [True] * 4
    assert (
        tiny.bytes_of("adapters/round-1/*.safetensors").popitem()[1]
        != (tiny.bytes_of("adapters/sft/*.safetensors").popitem()[1])
    )


def test_a_recipe_of_theirs_is_checked_like_any_other(tmp_path: Path, call: Call) -> None:
    tiny = Tiny.make(tmp_path, train={"objective": OBJECTIVE}, rank={"scorer": "chrf"})
    assert "train.objective negatives-follow weighs candidates by scorers" in call(*tiny.arguments()).flat
    tiny = Tiny.make(tmp_path, train={"objective": {**OBJECTIVE, "anchor_nl": 1}})
    assert "train.objective.anchor_nl: unknown key (did you mean 'anchor_nll'?)" in call(*tiny.arguments()).flat
    tiny = Tiny.make(tmp_path, rank={"scorer": "odd"})
    assert "no scorer 'odd' (did you mean 'odds'?)" in call(*tiny.arguments()).flat
