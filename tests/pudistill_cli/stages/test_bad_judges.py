"""Whatever ranks, what a run keeps is not worse than SFT: planted bad judges, caught by the gates and let through."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.judges_scorers import Length, Planted
from pudistill_cli.method.scorers import Item, Judge, Scorer, Scores, no_questions
from pudistill_cli.method.scorers.registry import SCORERS
from pudistill_cli.method.statistics import paired_difference
from pudistill_cli.run.opening import reopen
from pudistill_cli.stages.anchors import ask_teacher
from pudistill_cli.stages.evaluator import Evaluator, System
from pudistill_cli.terminal.console import Console
from tests.tiny import QUICKSTART, Ended, Tiny

pytestmark = pytest.mark.slow  # half a minute in all

Call = Callable[..., Ended]
LIKELIHOOD = SCORERS["likelihood"]
BAD = {scorer.name: scorer for scorer in (Planted(), Planted(LIKELIHOOD), Length(1))}
FRESH = 120
"""Test prompts, none of which chose anything."""


@dataclass(frozen=True)
class Turning:
    """`likelihood` until the first round is learned, its opposite from then on."""

    run: Path
    name = "turning"
    asks_model = True
    sees_anchor = True
    relative = False
    questions = no_questions

    def score(self, judge: Judge, items: Sequence[Item]) -> Scores:
        turned = (self.run / "adapters" / "round-1").exists()
        return (Planted(LIKELIHOOD) if turned else LIKELIHOOD).score(judge, items)


@pytest.fixture(scope="module")
def after_sft(tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    """The quickstart with a third of its prompts, up to SFT."""
    names = {"train": "prompts.jsonl", "dev": "prompts-dev.jsonl", "test": "prompts-test.jsonl"}
    tiny = Tiny.make(
        tmp_path_factory.mktemp("after-sft"),
        teacher={"kind": "file", "path": str(QUICKSTART / "anchors.jsonl")},
        prompts={**{name: str(QUICKSTART / file) for name, file in names.items()}, "limit": 66},
        lora={"r": 32, "alpha": 64.0},
        sft={"epochs": 6, "batch": 16},
        rank={"gate_prompts": 100, "min_anchor": None, "min_kendall": None},
        prefer={"k": 4, "rounds": 0, "prior_start": 0.0},
        train={"groups_per_step": 16, "lr": 1.0e-3},  # a rate at which a bad judge bites
        eval={"max_prompts": 2, "dev_prompts": 60, "dev_temperatures": [1.0, 0.0]},
    )
    tiny.finish("--until", "sft")
    return tiny


def planted(tiny: Tiny, call: Call, scorer: Scorer, rounds: int, *settings: str) -> Ended:
    """The run goes on, ranked by `scorer`."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(SCORERS, scorer.name, scorer)
        given = [f"rank.scorer={scorer.name}", f"prefer.rounds={rounds}", *settings]
        ended = call(*tiny.arguments("--until", "eval", *(word for s in given for word in ("--set", s))))
    assert ended.code == 0, ended.err
    return ended


def chosen(tiny: Tiny) -> str:
    return json.loads((tiny.run / "results.json").read_text())["chosen"]


def adapters(tiny: Tiny) -> list[str]:
    return sorted(path.name for path in (tiny.run / "adapters").iterdir())


def detail(tiny: Tiny, stage: str) -> dict[str, Any]:
    return json.loads(tiny.value(f"SELECT detail FROM stages WHERE name = '{stage}'"))


def assert_not_worse_than_sft(tiny: Tiny, scorer: Scorer, kept: str) -> None:
    """On dev in the mean, and on fresh prompts by more than chance."""
    dev = {name: np.mean(detail(tiny, f"dev/{name}")["values"]) for name in {"sft", kept}}
    assert dev[kept] >= dev["sft"]
    if kept == "sft":
        return
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(SCORERS, scorer.name, scorer)
        with closing(reopen("tiny", tiny.runs, Console(), ["eval.max_prompts=null"])) as job:
            evaluator = Evaluator(job, {"fresh": ask_teacher(job).held_out["test"][-FRESH:]})
            values = [
                np.mean([evaluator.quality(System(name, name), "fresh", t)[:, 0] for t in (1.0, 0.0)], axis=0)
                for name in (kept, "sft")
            ]
    assert paired_difference(*values, seed=0).high >= 0


@pytest.mark.parametrize("name", BAD)
def test_the_gates_catch_a_bad_judge(name: str, after_sft: Tiny, tmp_path: Path, call: Call) -> None:
    tiny = after_sft.copy(tmp_path / "runs")
    ended = planted(tiny, call, BAD[name], 2)
    assert "No scorer passed its gate" in ended.flat
    assert detail(tiny, "rank")["passed"] == []
    assert (adapters(tiny), chosen(tiny)) == (["sft"], "sft")


@pytest.mark.parametrize("name", ["reversed-likelihood", "long", "pmi"])
def test_a_bad_judge_without_gates_leaves_nothing_worse_than_sft(
    name: str, after_sft: Tiny, tmp_path: Path, call: Call
) -> None:
    scorer = BAD.get(name) or SCORERS[name]
    tiny = after_sft.copy(tmp_path / "runs")
    planted(tiny, call, scorer, 2, "rank.gates=false")
    assert_not_worse_than_sft(tiny, scorer, chosen(tiny))
    if name == "reversed-likelihood":  # what was let through did harm
        last, sft = (detail(tiny, f"dev/{n}")["values"] for n in (adapters(tiny)[-2], "sft"))
        assert paired_difference(last, sft, seed=0).high < 0
        assert chosen(tiny) == "sft"


def test_a_judge_that_turns_bad_is_caught_before_it_teaches(after_sft: Tiny, tmp_path: Path, call: Call) -> None:
    tiny = after_sft.copy(tmp_path / "runs")
    scorer = Turning(tiny.run)
    ended = planted(tiny, call, scorer, 3)
    assert "gate: turning puts the anchor above" in ended.flat
    assert "The rounds end before the update of round 2" in ended.flat
    assert adapters(tiny) == ["round-1", "sft"]
    assert detail(tiny, "gates/round-2")["fell"] == ["turning"]
    assert_not_worse_than_sft(tiny, scorer, chosen(tiny))


def test_a_judge_that_turns_bad_behind_the_gates_leaves_nothing_worse_than_sft(
    after_sft: Tiny, tmp_path: Path, call: Call
) -> None:
    tiny = after_sft.copy(tmp_path / "runs")
    scorer = Turning(tiny.run)
    planted(tiny, call, scorer, 3, "rank.gates=false")
    assert len(adapters(tiny)) > 2
    assert_not_worse_than_sft(tiny, scorer, chosen(tiny))
