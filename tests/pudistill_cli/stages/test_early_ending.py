"""The rounds under watch: what ends them early, what does not, and that a decision is made once."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.judges_scorers import Planted
from pudistill_cli.method.gates import GateReport
from pudistill_cli.method.scorers.registry import SCORERS
from pudistill_cli.method.statistics import Interval
from pudistill_cli.stages import examining, gating
from pudistill_cli.stages.evaluator import Evaluator, System
from tests.tiny import SIZES, Ended, Tiny

Call = Callable[..., Ended]
ROUNDS = {"prefer": {"rounds": 4}}
BROKEN = {"sft": 0.9, "round-1": 0.5, "round-2": 0.6, "round-3": 0.7, "round-4": 0.8}


def on_dev(monkeypatch: pytest.MonkeyPatch, values: Mapping[str, float]) -> None:
    """Every dev prompt has the adapter's value: the interval of a difference is the difference."""

    def given(self: Evaluator, system: System, name: str, temperature: float) -> np.ndarray:
        return np.full(SIZES["dev"], values[system.name])

    monkeypatch.setattr(Evaluator, "selection_values", given)


def adapters(tiny: Tiny) -> list[str]:
    return sorted(path.name for path in (tiny.run / "adapters").iterdir())


def results(tiny: Tiny) -> dict[str, Any]:
    return json.loads((tiny.run / "results.json").read_text())


def chosen(tiny: Tiny) -> str:
    return results(tiny)["chosen"]


def recorded(tiny: Tiny) -> dict[str, Any] | None:
    """Why the rounds ended early, as the ledger has it."""
    details = tiny.rows("SELECT detail FROM stages WHERE name = 'rounds-end'")
    return json.loads(details[0][0]) if details else None


def test_two_rounds_in_a_row_behind_sft_are_the_last(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: Call
) -> None:
    on_dev(monkeypatch, BROKEN)
    tiny = Tiny.make(tmp_path, **ROUNDS)
    ended = call(*tiny.arguments("--until", "eval"))
    assert ended.code == 0, ended.err
    assert "2 rounds in a row are worse than SFT on dev, round-2 by 0.300 [0.300, 0.300]" in ended.flat
    assert "--set train.lr=0.0001" in ended.flat
    assert (adapters(tiny), chosen(tiny)) == (["round-1", "round-2", "sft"], "sft")
    assert "The rounds ended after 2 of 4: 2 in a row were worse than SFT on dev." in results(tiny)["verdict"]
    assert recorded(tiny) == {"reason": "dev", "after": 2, "why": "2 in a row were worse than SFT on dev"}


@pytest.mark.parametrize(
    "values",
    [
        pytest.param(
            {"round-1": 0.5, "round-2": 0.9, "round-3": 0.5, "round-4": 0.95}, id="one is repaired by the next"
        ),
        pytest.param({"round-1": 0.9, "round-2": 0.8, "round-3": 0.9, "round-4": 0.95}, id="level is not behind"),
    ],
)
def test_a_round_behind_sft_may_be_repaired(
    values: dict[str, float], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: Call
) -> None:
    on_dev(monkeypatch, {"sft": 0.9, **values})
    tiny = Tiny.make(tmp_path, **ROUNDS)
    ended = call(*tiny.arguments("--until", "eval"))
    assert ended.code == 0, ended.err
    assert "in a row" not in ended.flat
    assert (len(adapters(tiny)), chosen(tiny)) == (5, "round-4")
    assert "The rounds ended" not in results(tiny)["verdict"]
    assert recorded(tiny) is None


def test_an_early_end_lasts_and_so_does_a_run_that_went_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: Call
) -> None:
    """The command again, and `eval` with another measure, train nothing and ask for no candidates."""
    on_dev(monkeypatch, BROKEN)
    short = Tiny.make(tmp_path / "short", **ROUNDS)
    assert call(*short.arguments("--until", "eval")).code == 0
    whole = Tiny.make(tmp_path / "whole", prefer={"rounds": 3})
    on_dev(monkeypatch, {**BROKEN, "round-2": 1.0})
    assert call(*whole.arguments("--until", "eval")).code == 0
    before = {tiny: (adapters(tiny), tiny.value("SELECT count(*) FROM candidates")) for tiny in (short, whole)}
    for tiny, dev in ((short, dict.fromkeys(BROKEN, 0.9)), (whole, BROKEN)):
        on_dev(monkeypatch, dev)
        again = call(*tiny.arguments("--until", "eval"))
        assert again.code == 0, again.err
        other = call("eval", str(tiny.run), "--set", "eval.metric=chrf")
        assert other.code == 0, other.err
        assert (adapters(tiny), tiny.value("SELECT count(*) FROM candidates")) == before[tiny]


def test_another_measure_of_the_recipe_decides_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: Call
) -> None:
    on_dev(monkeypatch, BROKEN)
    tiny = Tiny.make(tmp_path, prefer={"rounds": 3})
    assert call(*tiny.arguments("--until", "prefer")).code == 0
    assert len(adapters(tiny)) == 3
    on_dev(monkeypatch, {**BROKEN, "round-2": 1.0})
    ended = call(*tiny.arguments("--until", "prefer", "--set", "eval.metric=chrf"))
    assert ended.code == 0, ended.err
    assert len(adapters(tiny)) == 4


def falling(monkeypatch: pytest.MonkeyPatch, number: int, measure: Interval) -> list[int]:
    """The gates find `measure` of the first scorer in that round; returns the rounds that they are asked about."""
    examine_again, examined = gating.examine_again, []

    def found(job: Any, scorers: Any, groups: Any, asked: int) -> list[GateReport]:
        first, *others = examine_again(job, scorers, groups, asked)
        examined.append(asked)
        return [
            replace(first, gate="corruption", measure=measure, threshold=0.8) if asked == number else first,
            *others,
        ]

    monkeypatch.setattr(gating, "examine_again", found)
    return examined


def test_a_scorer_that_falls_below_its_gate_ends_the_rounds_once_and_for_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: Call
) -> None:
    """Killed as the decision is made, the run decides again; after that it is only read."""
    tiny = Tiny.make(tmp_path, prefer={"rounds": 3})
    finish = import_module("pudistill_cli.run.ledger").Ledger.finish_stage

    def killed(self: Any, name: str, *given: Any) -> None:
        if name == "gates/round-2":
            raise KeyboardInterrupt
        finish(self, name, *given)

    with monkeypatch.context() as patch:
        patch.setattr("pudistill_cli.run.ledger.Ledger.finish_stage", killed)
        assert call(*tiny.arguments("--until", "eval")).code == 130
    examined = falling(monkeypatch, 2, Interval(0.5, 0.4, 0.6))
    ended = call(*tiny.arguments("--until", "eval"))
    assert ended.code == 0, ended.err
    assert (
        "Round 2: likelihood puts the anchor above a corrupted copy or another's in 50% of the pairs (needs 80%), on "
        in ended.flat
    )
    assert "The rounds end before the update of round 2" in ended.flat
    why = "likelihood fell below the gate on the candidates of round 2"
    assert f"The rounds ended after 1 of 3: {why}." in results(tiny)["verdict"]
    assert recorded(tiny) == {"reason": "gate", "after": 1, "why": why}
    assert adapters(tiny) == ["round-1", "sft"]
    assert examined == [2]
    again = call(*tiny.arguments("--until", "eval"))
    assert again.code == 0, again.err
    assert examined == [2]
    assert adapters(tiny) == ["round-1", "sft"]


def test_a_measure_below_its_gate_by_chance_ends_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: Call
) -> None:
    tiny = Tiny.make(tmp_path)
    examined = falling(monkeypatch, 2, Interval(0.75, 0.6, 0.85))
    assert call(*tiny.arguments("--until", "prefer")).code == 0
    assert examined == [2]
    assert adapters(tiny) == ["round-1", "round-2", "sft"]


def asked_of_the_model(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str | None]]:
    """A list that grows by (what, the adapter) with every call of the engine that computes something."""
    engine, calls = import_module("pudistill_cli.backend_api.engine").BaseEngine, []

    def watch(name: str, at: int) -> None:
        asked = getattr(engine, name)

        def call(self: Any, *given: Any) -> Any:
            path = self._adapters.get(given[at])
            calls.append((name, path and path.name))
            return asked(self, *given)

        monkeypatch.setattr(engine, name, call)

    for name, at in (("logprobs", 1), ("choice_logits", 2), ("distributions", 2), ("sample", 3)):
        watch(name, at)
    return calls


def during(monkeypatch: pytest.MonkeyPatch, name: str, calls: list[Any]) -> list[Any]:
    """What grows by the part of `calls` that is made inside of gating's function `name`."""
    inner, inside = getattr(gating, name), []

    def watched(*given: Any) -> Any:
        before = len(calls)
        result = inner(*given)
        inside.extend(calls[before:])
        return result

    monkeypatch.setattr(gating, name, watched)
    return inside


def test_later_gates_are_read_from_the_scores_of_the_round(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: Call
) -> None:
    """Where the student's answers are below the anchors the model is asked nothing more."""
    asked = during(monkeypatch, "examine_again", asked_of_the_model(monkeypatch))
    tiny = Tiny.make(tmp_path)  # its gates let everything through
    assert call(*tiny.arguments("--until", "prefer")).code == 0
    assert asked == []
    reports = json.loads(tiny.value("SELECT detail FROM stages WHERE name = 'gates/round-2'"))["reports"]
    assert [(r["scorer"], r["gate"], r["details"]["prompts"]) for r in reports] == [
        ("likelihood", "candidates", SIZES["train"]), ("token-f1", "agreement", SIZES["train"]),
    ]  # fmt: skip
    drawn = tiny.rows(
        "SELECT prompt_key, json(c.tokens), s.score, a.score, json(anchors.tokens) FROM candidates AS c "
        "JOIN scores AS s ON candidate_id = id JOIN anchors USING (prompt_key) "
        "JOIN anchor_scores AS a USING (prompt_key, scorer, round) WHERE round = 2 AND scorer = 'likelihood'"
    )
    shares: dict[str, list[float]] = {}
    for key, tokens, score, anchor, of_anchor in drawn:
        if tokens != of_anchor:
            shares.setdefault(key, []).append((np.sign(anchor - score) + 1) / 2)
    assert reports[0]["measure"] == pytest.approx(np.mean([np.mean(s) for s in shares.values()]))


def test_later_gates_ask_about_corrupted_anchors_where_the_round_s_scores_do_not_tell(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: Call
) -> None:
    """The tokens are the round's own policy's, and at most `rank.gate_prompts` are asked about."""
    asked = during(monkeypatch, "examine_again", asked_of_the_model(monkeypatch))
    settled = gating.GateReport.settled
    monkeypatch.setattr(
        gating.GateReport, "settled", property(lambda self: self.gate != "candidates" and settled.fget(self))
    )
    tiny = Tiny.make(tmp_path)
    assert call(*tiny.arguments("--until", "prefer")).code == 0
    assert asked == [("distributions", "round-1")] * 4 + [("logprobs", "sft")]
    reports = json.loads(tiny.value("SELECT detail FROM stages WHERE name = 'gates/round-2'"))["reports"]
    assert [(r["gate"], r["details"]["prompts"]) for r in reports] == [("corruption", 4), ("agreement", SIZES["train"])]


def test_a_round_without_likelihood_asks_for_it_as_long_as_the_gate_needs_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: Call
) -> None:
    asked = during(monkeypatch, "examine_again", asked_of_the_model(monkeypatch))
    tiny = Tiny.make(tmp_path, rank={"scorer": ["pmi", "chrf"]})
    assert call(*tiny.arguments("--until", "prefer")).code == 0
    reports = json.loads(tiny.value("SELECT detail FROM stages WHERE name = 'gates/round-2'"))["reports"]
    assert [(r["scorer"], r["details"]["prompts"]) for r in reports] == [("pmi", SIZES["train"]), ("chrf", 4)]
    assert all(-1 <= r["details"]["length"] <= 1 for r in reports)
    assert asked == [("logprobs", "sft")]
    assert [(s,) for s in ("chrf", "likelihood", "pmi", "posterior")] == tiny.rows(
        "SELECT DISTINCT scorer FROM scores JOIN candidates ON id = candidate_id WHERE round = 1 ORDER BY 1"
    )


def test_the_first_gates_score_nothing_that_the_round_scores_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: Call
) -> None:
    """4 of 16 prompts are drawn and scored by the gates: 4 copies, their scores, 4 prompts' candidates and scores."""
    calls = asked_of_the_model(monkeypatch)
    asked = during(monkeypatch, "examine", calls)
    tiny = Tiny.make(tmp_path, prefer={"rounds": 1})
    assert call(*tiny.arguments("--until", "rank")).code == 0
    assert asked == [*[("distributions", "sft")] * 4, ("logprobs", "sft"), ("sample", "sft"), ("logprobs", "sft")]
    before = tiny.rows("SELECT candidate_id, scorer, score FROM scores ORDER BY 1, 2")
    assert len(before) == 4 * 2
    assert call(*tiny.arguments("--until", "prefer")).code == 0
    after = tiny.rows("SELECT candidate_id, scorer, score FROM scores WHERE scorer != 'posterior' ORDER BY 1, 2")
    assert set(before) < set(after)
    assert len(after) == 16 * 2 * 2


def test_without_a_model_scorer_that_passed_nothing_is_drawn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: Call
) -> None:
    bad = Planted(SCORERS["likelihood"])
    monkeypatch.setitem(SCORERS, bad.name, bad)
    asked = during(monkeypatch, "examine", asked_of_the_model(monkeypatch))
    for scorer, reports in (("chrf", 0), ([bad.name, "chrf"], 1)):
        tiny = Tiny.make(tmp_path / str(reports), rank={"scorer": scorer, "min_anchor": 0.8})
        ended = call(*tiny.arguments("--until", "rank"))
        assert ended.code == 0, ended.err
        assert "No scorer passed its gate" in ended.flat
        assert len(json.loads(tiny.value("SELECT detail FROM stages WHERE name = 'rank'"))["reports"]) == reports
        assert tiny.value("SELECT count(*) FROM candidates") == 0
    assert {name for name, _ in asked} == {"distributions", "logprobs"}


def test_the_prompts_of_the_gates_are_drawn_by_the_seed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: Call
) -> None:
    """Not the first of the file, and the same ones when the run is made again."""

    def drawn(folder: str, seed: int) -> set[str]:
        tiny = Tiny.make(tmp_path / folder, seed=seed)
        assert call(*tiny.arguments("--until", "rank")).code == 0
        return {key for (key,) in tiny.rows("SELECT DISTINCT prompt_key FROM candidates")}

    first, again, other = drawn("first", 0), drawn("again", 0), drawn("other", 1)
    assert len(first) == 4
    assert first == again != other


@pytest.mark.parametrize(
    ("metric", "gates", "warned"), [("none", False, True), ("none", True, False), ("json", False, False)]
)
def test_a_scorer_that_alone_decides_everything_is_warned_about(
    metric: str, gates: bool, warned: bool, tmp_path: Path, call: Call
) -> None:
    tiny = Tiny.make(tmp_path, rank={"gates": gates}, eval={"metric": metric}, prefer={"rounds": 1})
    ended = call(*tiny.arguments("--until", "rank"))
    assert ended.code == 0, ended.err
    assert ("the scorer that ranks also chooses what is kept" in ended.flat) == warned


# --- a judge that is refreshed each round ---


def test_a_refreshed_judge_is_the_student_as_the_round_begins(
    finished: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: Call
) -> None:
    """Round 1 is ranked as with the SFT snapshot, round 2 by the adapter of round 1, and dev by SFT's."""
    job = import_module("pudistill_cli.run.context").Job
    judge, asked = job.judge, []

    def named(self: Any, policy: str = "sft") -> Any:
        asked.append(self.judge_name(policy))
        return judge(self, policy)

    scores = (
        "SELECT prompt_key, k, scorer, score FROM candidates JOIN scores ON candidate_id = id "
        "WHERE round = {} ORDER BY prompt_key, k, scorer"
    )
    monkeypatch.setattr(job, "judge", named)
    tiny = Tiny.make(tmp_path, rank={"judge": "refreshed"})
    ended = call(*tiny.arguments("--until", "prefer"))
    assert ended.code == 0, ended.err
    assert tiny.rows(scores.format(1)) == finished.rows(scores.format(1))
    assert tiny.rows(scores.format(2)) != finished.rows(scores.format(2))
    assert tiny.bytes_of("adapters/round-1/*") == finished.bytes_of("adapters/round-1/*")
    assert set(asked) == {"sft", "round-1"}
    reports = json.loads(tiny.value("SELECT detail FROM stages WHERE name = 'gates/round-2'"))["reports"]
    assert [(r["scorer"], r["gate"]) for r in reports] == [
        ("likelihood", "candidates"), ("likelihood", "drift"), ("token-f1", "agreement"),
    ]  # fmt: skip
    assert 0 < reports[1]["measure"] <= 1


def test_a_refreshed_judge_that_disagrees_with_the_first_one_ends_the_rounds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: Call
) -> None:
    kendall_gate = examining.kendall_gate

    def disagrees(gate: str, *given: Any) -> GateReport:
        report = kendall_gate(gate, *given)
        return replace(report, measure=Interval(0, -0.2, 0.1), threshold=0.2) if gate == "drift" else report

    monkeypatch.setattr(examining, "kendall_gate", disagrees)
    tiny = Tiny.make(tmp_path, rank={"judge": "refreshed"})
    ended = call(*tiny.arguments("--until", "eval"))
    assert ended.code == 0, ended.err
    assert "likelihood agrees with the first round's judge inside groups, Kendall 0.00 (needs 0.20)" in ended.flat
    assert adapters(tiny) == ["round-1", "sft"]


@pytest.mark.parametrize(("judge", "expected"), [("sft", ["sft", "sft"]), ("refreshed", ["sft", "round-1"])])
def test_what_is_distilled_is_the_judge_of_the_round(
    judge: str, expected: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: Call
) -> None:
    learner = import_module("pudistill_torch.learner").TorchLearner
    load, step, loaded, held = learner.load_adapter, learner.step, {}, []

    def named(self: Any, path: Path) -> Any:
        handle = load(self, path)
        loaded[handle] = path.name
        return handle

    def watched(self: Any, batch: Any, lr: float) -> Any:
        if getattr(batch, "judge", None) is not None:
            held.append(loaded[batch.judge])
        return step(self, batch, lr)

    monkeypatch.setattr(learner, "load_adapter", named)
    monkeypatch.setattr(learner, "step", watched)
    tiny = Tiny.make(tmp_path, rank={"judge": judge}, train={"objective": "sdft"})
    ended = call(*tiny.arguments("--until", "prefer"))
    assert ended.code == 0, ended.err
    assert list(dict.fromkeys(held)) == list(dict.fromkeys(expected))
