"""The loop: what its stages hand on, and where it ends early."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pudistill_cli.config.training import default_preference_lr
from pudistill_cli.run.opening import reopen
from pudistill_cli.stages import gating
from pudistill_cli.stages.anchors import Anchors
from pudistill_cli.stages.evaluator import Evaluator, System
from pudistill_cli.terminal.console import Console
from tests.tiny import SIZES, Ended, Tiny

Call = Callable[..., Ended]


def results(tiny: Tiny) -> dict[str, Any]:
    return json.loads((tiny.run / "results.json").read_text())


def test_when_no_scorer_passes_the_gates_sft_is_all_and_is_exported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: Call
) -> None:
    examine = gating.examine
    monkeypatch.setattr(gating, "examine", lambda *given: [replace(r, threshold=2.0) for r in examine(*given)])
    tiny = Tiny.make(tmp_path)
    ended = call(*tiny.arguments())
    assert ended.code == 0, ended.err
    assert "No scorer passed its gate" in ended.flat
    assert "SFT only" in ended.out
    assert [p.name for p in (tiny.run / "adapters").iterdir()] == ["sft"]
    assert results(tiny)["chosen"] == "sft"
    assert {f["system"] for f in results(tiny)["figures"]} == {"base", "SFT"}
    assert json.loads((tiny.run / "export" / "hf" / "pudistill.json").read_text())["adapter"] == "sft"
    detail = json.loads(tiny.value("SELECT detail FROM stages WHERE name = 'rank'"))
    assert detail["passed"] == []
    assert {r["scorer"] for r in detail["reports"]} == {"likelihood", "token-f1"}


def test_the_gates_decide_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: Call) -> None:
    tiny = Tiny.make(tmp_path, prefer={"rounds": 1})
    assert call(*tiny.arguments("--until", "rank")).code == 0
    monkeypatch.setattr(gating, "examine", lambda *_: pytest.fail("examined again"))
    assert call(*tiny.arguments()).code == 0


def test_no_rounds_are_sft_alone(tmp_path: Path, call: Call) -> None:
    tiny = Tiny.make(tmp_path, prefer={"rounds": 0})
    assert call(*tiny.arguments()).code == 0
    assert results(tiny)["chosen"] == "sft"
    assert tiny.value("SELECT count(*) FROM candidates") == 0


@pytest.mark.parametrize(("engine", "learner"), [("mlx", "torch"), ("torch", "mlx")])
def test_an_engine_samples_beside_a_learner_of_another_framework(
    engine: str, learner: str, tmp_path: Path, call: Call
) -> None:
    """What the engine resolved for itself, its dtype too, is kept in the run and given back to it."""
    pytest.importorskip("mlx.core")
    changes = {"backend": {"engine": engine, "learner": learner}, "student": {"threads": None}}
    tiny = Tiny.make(tmp_path, prefer={"rounds": 0}, **changes)
    ended = call(*tiny.arguments("--until", "sft"))
    assert ended.code == 0, ended.err
    assert json.loads((tiny.run / "state" / "run.json").read_text())["resolved"]["engine.dtype"] == "float32"


def test_a_scorer_that_is_named_without_gates_is_used(tmp_path: Path, call: Call) -> None:
    tiny = Tiny.make(tmp_path, rank={"gates": False, "scorer": "chrf"}, prefer={"rounds": 1})
    ended = call(*tiny.arguments("--until", "prefer"))
    assert ended.code == 0, ended.err
    assert tiny.rows("SELECT DISTINCT scorer FROM scores") == [("chrf",)]
    assert tiny.rows("SELECT DISTINCT scorer FROM groups") == [("chrf",)]


@pytest.mark.parametrize("scorer", ["likelihood", "pmi", "verdict", "pairwise", "chrf", "token-f1"])
def test_every_scorer_ranks_a_round(scorer: str, tmp_path: Path, call: Call) -> None:
    short = {"verdict": "{prompt} {anchor} {candidate}", "pairwise": "{prompt} {anchor} {first} {second}"}
    tiny = Tiny.make(tmp_path, rank={"gates": False, "scorer": scorer, **short}, prefer={"rounds": 1})
    ended = call(*tiny.arguments("--until", "prefer"))
    assert ended.code == 0, ended.err
    assert tiny.value("SELECT count(DISTINCT score) FROM scores") > SIZES["train"]


@pytest.mark.parametrize("objective", ["dpo", "grpo", "ldl-grpo", "pu-dpo", "rft", "sdft", "spin"])
def test_every_objective_moves_the_policy(objective: str, tmp_path: Path, call: Call) -> None:
    tiny = Tiny.make(tmp_path, train={"objective": objective}, prefer={"rounds": 1})
    ended = call(*tiny.arguments("--until", "prefer"))
    assert ended.code == 0, ended.err
    assert (
        tiny.bytes_of("adapters/round-1/*.safetensors").popitem()[1]
        != (tiny.bytes_of("adapters/sft/*.safetensors").popitem()[1])
    )
    assert json.loads(tiny.value("SELECT detail FROM stages WHERE name = 'round-1'"))["objective"] == objective


def test_dev_keeps_sft_when_the_rounds_make_it_worse(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: Call
) -> None:
    dev = {"sft": 0.9, "round-1": 0.5, "round-2": 0.6}

    def values(self: Evaluator, system: System, name: str, temperature: float) -> np.ndarray:
        return np.full(SIZES["dev"], dev[system.name])

    monkeypatch.setattr(Evaluator, "selection_values", values)
    tiny = Tiny.make(tmp_path, export={"formats": ["adapter"]})
    assert call(*tiny.arguments()).code == 0
    assert results(tiny)["chosen"] == "sft"
    assert json.loads((tiny.run / "export" / "adapter" / "pudistill.json").read_text())["adapter"] == "sft"
    # The table shows the better of the rounds, not SFT under another name.
    assert tiny.rows("SELECT DISTINCT system FROM eval_answers WHERE split = 'test' ORDER BY 1") == [
        ("base",), ("round-2",), ("sft",),
    ]  # fmt: skip


def test_sft_and_the_rounds_share_the_prompts_as_told(tmp_path: Path, call: Call) -> None:
    tiny = Tiny.make(tmp_path, sft={"share": 0.25}, prefer={"rounds": 1}, rank={"gate_prompts": 100})
    assert call(*tiny.arguments("--until", "prefer")).code == 0
    assert json.loads(tiny.value("SELECT detail FROM stages WHERE name = 'sft'"))["rows"] == 4
    assert tiny.value("SELECT count(DISTINCT prompt_key) FROM candidates") == SIZES["train"] - 4


def test_a_share_of_everything_leaves_no_prompt_for_the_rounds(tmp_path: Path, call: Call) -> None:
    ended = call(*Tiny.make(tmp_path, sft={"share": 0.99}).arguments())
    assert ended.code == 3
    assert "leaves none for the preference stage" in ended.flat


def test_prompts_of_a_round_are_taken_in_turn(tmp_path: Path, call: Call) -> None:
    tiny = Tiny.make(tmp_path, prefer={"prompts_per_round": 8})
    assert call(*tiny.arguments("--until", "prefer")).code == 0
    first, second = (
        {key for (key,) in tiny.rows(f"SELECT DISTINCT prompt_key FROM candidates WHERE round = {n}")} for n in (1, 2)
    )
    assert len(first) == len(second) == 8
    assert not first & second


def numbered(count: int) -> list[Any]:
    return list(range(count))


@pytest.mark.parametrize(
    ("per_round", "number", "expected"),
    [(None, 3, [0, 1, 2, 3, 4]), (2, 1, [0, 1]), (2, 2, [2, 3]), (2, 3, [4, 0]), (7, 2, [0, 1, 2, 3, 4])],
)
def test_the_turn_wraps_around(per_round: int | None, number: int, expected: list[int]) -> None:
    assert Anchors([], numbered(5), {}, per_round).for_rl(number) == expected


def test_answers_are_limited_by_the_anchors_lengths(finished: Tiny, tmp_path: Path, call: Call) -> None:
    tiny = Tiny.make(tmp_path, prefer={"max_new_tokens": "auto"})
    assert call(*tiny.arguments("--until", "anchors")).code == 0
    lengths = [
        len(json.loads(tokens))
        for (tokens,) in tiny.rows("SELECT tokens FROM anchors JOIN prompts ON prompt_key = key WHERE split = 'train'")
    ]
    # The 95th percentile of 16 numbers lies a quarter of the way between the two largest: 0.95 * 15 = 14.25.
    *_, second, largest = sorted(lengths)
    expected = -(-1.3 * (second + 0.25 * (largest - second)) // 1)
    assert json.loads((tiny.run / "state" / "run.json").read_text())["resolved"]["max_new_tokens"] == expected


def test_many_truncated_candidates_are_told(tmp_path: Path, call: Call) -> None:
    tiny = Tiny.make(tmp_path, prefer={"max_new_tokens": 3, "rounds": 1})
    ended = call(*tiny.arguments("--until", "prefer"))
    assert "were cut off at 3 tokens and are left out" in ended.flat
    assert "--name tiny-2 --set prefer.max_new_tokens=6" in ended.flat


def test_a_round_without_a_whole_candidate_ends_the_rounds(tmp_path: Path, call: Call) -> None:
    tiny = Tiny.make(tmp_path, prefer={"max_new_tokens": 1})
    ended = call(*tiny.arguments("--until", "eval"))
    assert ended.code == 0, ended.err
    assert "no candidate came to an end, so the rounds end here" in ended.flat
    assert sorted(p.name for p in (tiny.run / "adapters").iterdir()) == ["sft"]
    assert results(tiny)["verdict"].startswith("SFT only: no candidate came to an end")


def test_the_judge_and_the_reference_stay_what_they_were(finished: Tiny, tmp_path: Path, call: Call) -> None:
    """SFT's adapter is frozen: rounds that train the same weights leave its bytes alone."""
    tiny = Tiny.make(tmp_path)
    assert call(*tiny.arguments("--until", "sft")).code == 0
    assert tiny.bytes_of("adapters/sft/*") == finished.bytes_of("adapters/sft/*")


def test_at_most_the_judge_and_two_adapters_are_held(copied: Tiny) -> None:
    with closing(reopen("tiny", copied.runs, Console(), [])) as job:
        for name in ("sft", "round-1", "round-2", "round-1"):
            job.adapter(name)
            assert len(job._adapters) <= 3
        held = dict(job._adapters)
        assert job.adapter("sft") == held["sft"]


def test_the_rate_of_the_rounds_follows_the_student_s_size(copied: Tiny) -> None:
    with closing(reopen("tiny", copied.runs, Console(), [])) as job:
        assert job.preference_lr == default_preference_lr(205_200)
        half_a_billion = replace(job, student=replace(job.student, parameters=500_000_000))
        assert half_a_billion.preference_lr == pytest.approx(2e-5, rel=0.01)
