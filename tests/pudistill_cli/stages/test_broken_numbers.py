"""A run whose numbers break: found, the last good adapter kept, and said what to change."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from pudistill_cli.method.scorers import Item, Judge, Scores, no_questions
from pudistill_cli.method.scorers.registry import SCORERS
from pudistill_cli.stages.sft_divergence import tell_divergence
from tests.tiny import Ended, Tiny

Call = Callable[..., Ended]
FREE = {"rank": {"gates": False}}


def adapters(tiny: Tiny) -> list[str]:
    return sorted(path.name for path in (tiny.run / "adapters").iterdir())


def recorded(tiny: Tiny) -> dict[str, Any]:
    return json.loads(tiny.value("SELECT detail FROM stages WHERE name = 'rounds-end'"))


def chosen(tiny: Tiny) -> str:
    return json.loads((tiny.run / "results.json").read_text())["chosen"]


@dataclass(frozen=True)
class Given:
    """Gives every answer the same score."""

    value: float
    name: str = "given"
    asks_model = False
    sees_anchor = True
    relative = False
    questions = no_questions

    def score(self, judge: Judge, items: Sequence[Item]) -> Scores:
        for index, item in enumerate(items):
            yield index, np.full(len(item.candidates), self.value)


@pytest.fixture
def learner(monkeypatch: pytest.MonkeyPatch) -> Any:
    return pytest.importorskip("pudistill_torch.learner", reason="needs the torch backend")


# --- SFT ---


@pytest.mark.parametrize("last", [1, 2])
def test_weights_that_a_step_of_sft_spoils(
    last: int, tmp_path: Path, call: Call, monkeypatch: pytest.MonkeyPatch, learner: Any
) -> None:
    """In the first of two steps the second one finds it; after the second one the adapter is not kept."""
    tiny, steps = Tiny.make(tmp_path), []
    real = learner.TorchLearner._step

    def spoiling(self: Any, batch: Any, lr: float) -> Any:
        metrics = real(self, batch, lr)
        steps.append(lr)
        if len(steps) == last:
            self._parameters[0].data.fill_(float("nan"))
        return metrics

    with monkeypatch.context() as patch:
        patch.setattr(learner.TorchLearner, "_step", spoiling)
        ended = call(*tiny.arguments("--until", "sft"))
    assert ended.code == 6, ended.err
    assert "not finite" in ended.flat
    assert "sft.lr" in ended.flat
    assert "sft" not in adapters(tiny)
    again = call(*tiny.arguments("--until", "sft"))
    assert again.code == 0, again.err
    assert "sft" in adapters(tiny)


@pytest.mark.parametrize("spoilt", [float("nan"), float("inf")])
def test_a_gradient_that_is_not_finite_where_the_loss_is(
    spoilt: float, tmp_path: Path, call: Call, monkeypatch: pytest.MonkeyPatch, learner: Any
) -> None:
    tiny, real, taken = Tiny.make(tmp_path), learner.clip_grad_norm_, []

    def spoiling(parameters: Any, most: float) -> Any:
        taken.append(most)
        if len(taken) == 2:
            parameters[0].grad[0, 0] = spoilt
        return real(parameters, most)

    monkeypatch.setattr(learner, "clip_grad_norm_", spoiling)
    ended = call(*tiny.arguments("--until", "sft"))
    assert ended.code == 6, ended.err
    assert re.search(rf"SFT stopped at step 2: loss \d\.\d+, gradient norm {spoilt}: not finite\.", ended.flat)
    assert f"The last good adapter is {tiny.run / 'adapters' / 'sft-stopped'}" in ended.flat


@pytest.mark.parametrize(
    ("losses", "warns"), [([2.0, 1.0, 0.5], False), ([2.0, 1.0, 2.05], False), ([2.0, 5.0, 9.0], True), ([], False)]
)
def test_a_loss_that_rises_is_told(losses: list[float], warns: bool) -> None:
    warnings: list[str] = []
    recorded = [SimpleNamespace(name="loss", step=step, value=value) for step, value in enumerate(losses)]
    job: Any = SimpleNamespace(
        ledger=SimpleNamespace(metrics=lambda stage: recorded),
        console=SimpleNamespace(warn=warnings.append),
        folder=SimpleNamespace(name="run"),
    )
    tell_divergence(job, 1e-3)
    assert bool(warnings) == warns
    if warns:
        assert "has risen from 2.00 to 9.00 nats a token" in warnings[0]
        assert "--name run-2 --set sft.lr=0.0001" in warnings[0]


def test_a_rate_that_is_too_high_for_sft(tmp_path: Path, call: Call) -> None:
    tiny = Tiny.make(tmp_path, sft={"lr": 3.0, "epochs": 3})
    ended = call(*tiny.arguments("--until", "sft"))
    assert ended.code == 0, ended.err
    assert "SFT's loss has risen from" in ended.flat
    assert "--name tiny-2 --set sft.lr=0.3" in ended.flat


# --- rounds ---


def test_a_round_that_breaks_the_student_is_left_out(tmp_path: Path, call: Call) -> None:
    """Every number of it is finite, and what the student said before is no longer possible to it."""
    tiny = Tiny.make(tmp_path, train={"lr": 0.1, "warmup_steps": 0, "groups_per_step": 4}, **FREE)
    ended = call(*tiny.arguments("--until", "eval"))
    assert ended.code == 0, ended.err
    assert "Round 1: it has moved the student by" in ended.flat
    assert f"{tiny.run / 'adapters' / 'sft'} is the last good adapter" in ended.flat
    assert "--set train.lr=0.01 --name tiny-2" in ended.flat
    assert recorded(tiny) == {"reason": "broken", "after": 0, "why": "round 1 broke the student (train.lr)"}
    assert chosen(tiny) == "sft"
    assert tiny.value("SELECT value FROM metrics WHERE name = 'moved'") > 2
    again = call(*tiny.arguments("--until", "eval"))
    assert again.code == 0, again.err
    assert chosen(tiny) == "sft"


def test_a_round_at_a_usual_rate_is_near_the_student(finished: Tiny) -> None:
    for (moved,) in finished.rows("SELECT value FROM metrics WHERE name = 'moved'"):
        assert abs(moved) < 0.1


def test_scores_that_are_not_finite_are_not_learned_from(
    tmp_path: Path, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(SCORERS, "given", Given(float("nan")))
    tiny = Tiny.make(tmp_path, rank={"gates": False, "scorer": "given"})
    ended = call(*tiny.arguments("--until", "prefer"))
    assert ended.code == 6, ended.err
    assert "The scorer given gives an answer" in ended.flat
    assert "The last good adapter is sft" in ended.flat
    assert adapters(tiny) == ["sft"]
    assert tiny.value("SELECT count(*) FROM scores") == 0


def test_equal_scores_end_the_rounds(tmp_path: Path, call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(SCORERS, "given", Given(0.5))
    tiny = Tiny.make(tmp_path, rank={"gates": False, "scorer": "given"})
    ended = call(*tiny.arguments("--until", "eval"))
    assert ended.code == 0, ended.err
    assert "all have the same score; nothing is left to rank, and the rounds end here" in ended.flat
    assert "--name tiny-2 --set prefer.temperature=1.3" in ended.flat
    assert (adapters(tiny), chosen(tiny), recorded(tiny)["reason"]) == (["sft"], "sft", "no signal")


def test_an_objective_that_learns_from_the_anchor_needs_no_order(
    tmp_path: Path, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(SCORERS, "given", Given(0.5))
    tiny = Tiny.make(tmp_path, rank={"gates": False, "scorer": "given"}, train={"objective": "spin"})
    ended = call(*tiny.arguments("--until", "prefer"))
    assert ended.code == 0, ended.err
    assert adapters(tiny) == ["round-1", "round-2", "sft"]


def test_a_student_that_never_ends_its_turn(tmp_path: Path, call: Call) -> None:
    tiny = Tiny.make(tmp_path, prefer={"max_new_tokens": 1})
    ended = call(*tiny.arguments("--until", "eval"))
    assert ended.code == 0, ended.err
    assert "--name tiny-2 --set prefer.max_new_tokens=2" in ended.flat
    assert "the student has not learned to end its turn: more SFT (sft.epochs)" in ended.flat
    assert (chosen(tiny), recorded(tiny)["reason"]) == ("sft", "all cut off")


def test_a_round_that_ends_in_nan_is_left_out_too(tmp_path: Path, call: Call) -> None:
    tiny = Tiny.make(tmp_path, train={"lr": 1e6, "warmup_steps": 0, "groups_per_step": 4}, **FREE)
    ended = call(*tiny.arguments("--until", "eval"))
    assert ended.code == 0, ended.err
    assert "Round 1: round-1 stopped: loss" in ended.flat
    assert "not finite. The round is left out and the rounds end" in ended.flat
    assert f"{tiny.run / 'adapters' / 'sft'} is the last good adapter" in ended.flat
    assert (chosen(tiny), recorded(tiny)["reason"]) == ("sft", "broken")
    again = call(*tiny.arguments("--until", "eval"))
    assert again.code == 0, again.err
    assert chosen(tiny) == "sft"
