"""Real models' files and real prompts: the shipped stories recipe on a pretrained checkpoint, and SmolLM2's shape."""

from __future__ import annotations

import json
import math
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from benchmarks import smollm2_shape
from tests.tiny import Ended

RSS_LIMIT_MIB = 6 * 1024
FEWER = {"prompts.limit": 32, "sft.students": 1, "eval.dev_temperatures": [1.0, 0.0]}
"""Of the stories recipe's 72 openings; what is left out repeats what is left."""
BEGINS_AND_ENDS = ("<s>", "</s>", "<unk>")


class Stories:
    """What the stories recipe left."""

    def __init__(self, run: Path) -> None:
        self.run = run
        self.results = json.loads((run / "results.json").read_text())

    def measures(self, system: str, temperature: float = 1.0) -> dict[str, dict[str, float]]:
        figures = self.results["figures"]
        return next(
            f["measures"] for f in figures if (f["system"], f["set"], f["temperature"]) == (system, "test", temperature)
        )

    def rows(self, query: str) -> list[tuple[Any, ...]]:
        with sqlite3.connect(self.run / "ledger.sqlite") as ledger:
            return ledger.execute(query).fetchall()


@pytest.mark.slow
def test_stories(shared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: Callable[..., Ended]) -> None:
    """Every stage of the shipped recipe: real openings, a pretrained story model, the gates, two rounds."""
    monkeypatch.chdir(tmp_path)
    settings = {"student.model": shared / "models" / "stories260K", **FEWER}
    ended = call("run", "stories", *(word for key, value in settings.items() for word in ("--set", f"{key}={value}")))
    assert ended.code == 0, ended.err
    stories = Stories(tmp_path / "runs" / "stories")
    _gates_let_the_judge_through(stories)
    _rounds_learned(stories)
    _table_is_whole(stories)
    _exports_are_the_trained_model(stories)
    _answers_are_sane(stories)
    shown = call("eval", "stories", "--show", "3")
    assert shown.code == 0, shown.err
    greedy = stories.rows("SELECT text FROM eval_answers WHERE split = 'test' AND temperature = 0")
    assert sum(text in shown.out for (text,) in greedy) >= 3 * 2  # of base and SFT at least


def _gates_let_the_judge_through(stories: Stories) -> None:
    ((detail,),) = stories.rows("SELECT detail FROM stages WHERE name = 'rank' AND finished IS NOT NULL")
    gates = {report["scorer"]: report for report in json.loads(detail)["reports"]}
    assert gates.keys() == {"likelihood", "token-f1"}
    assert gates["likelihood"]["measure"] >= 0.8  # passed by its measure, not by a setting
    assert json.loads(detail)["passed"] == [name for name, report in gates.items() if report["passed"]]


def _rounds_learned(stories: Stories) -> None:
    rounds = stories.rows("SELECT name, detail FROM stages WHERE name IN ('round-1', 'round-2') ORDER BY name")
    assert [name for name, _ in rounds] == ["round-1", "round-2"]
    assert all(json.loads(detail)["steps"] >= 2 for _, detail in rounds)
    for number in (1, 2):
        ((cut_off,),) = stories.rows(f"SELECT avg(finish = 'length') FROM candidates WHERE round = {number}")
        assert cut_off < 0.5  # the others take part
        ((groups,),) = stories.rows(f"SELECT count(*) FROM groups WHERE round = {number}")
        assert groups >= 20


def _table_is_whole(stories: Stories) -> None:
    for system in ("base", "SFT", "PU-RL"):
        for name in ("anchor NLL", "chrF to anchor", "tokens", "truncated", "distinct-2"):
            interval = stories.measures(system)[name]
            assert interval["low"] <= interval["mean"] <= interval["high"], (system, name)
    wins = stories.measures("PU-RL")["wins over SFT (judge)"]
    assert 0 <= wins["low"] <= wins["mean"] <= wins["high"] <= 1
    assert stories.measures("SFT")["anchor NLL"]["mean"] < stories.measures("base")["anchor NLL"]["mean"]
    assert stories.measures("SFT")["truncated"]["mean"] < 0.5  # it has learned to end a story


def _exports_are_the_trained_model(stories: Stories) -> None:
    for format in ("hf", "adapter"):
        card = json.loads((stories.run / "export" / format / "pudistill.json").read_text())
        assert math.isfinite(card["verification"]["kl"])
        assert abs(card["verification"]["kl"]) < 1e-4, format


def _answers_are_sane(stories: Stories) -> None:
    """Text only, joined to its prompt by a space or a new line."""
    for (text,) in stories.rows("SELECT text FROM eval_answers WHERE split = 'test' UNION SELECT text FROM candidates"):
        assert not any(token in text for token in BEGINS_AND_ENDS), text
    greedy = "SELECT text FROM eval_answers WHERE split = 'test' AND temperature = 0"
    texts = [text for (text,) in stories.rows(greedy)]
    assert all(text[:1].isspace() for text in texts), texts
    assert "\ufffd" not in "".join(texts)  # no torn characters where an end should be


@pytest.mark.slow
def test_smollm2_shape(shared: Path, tmp_path: Path) -> None:
    """One round, 2 MT-bench questions, K 4, 32 new tokens, on random weights with the real tokenizer."""
    student = smollm2_shape.build_student(shared / "tokenizers" / "smollm2-135m-instruct", tmp_path / "student")
    bench = shared / "data" / "mt_bench"
    smollm2_shape.write_task(tmp_path, bench / "question.jsonl", bench / "gpt-4.jsonl", limit=2)
    found = smollm2_shape.run_recipe(smollm2_shape.write_recipe(tmp_path, student, threads=1, new_tokens=32))
    print(json.dumps(found, indent=2))
    assert "round 1: ldl-grpo" in found["stages"]
    assert 0 < found["rates"]["cut_off_share"] < 1  # some answers end, as real ones do
    assert found["exports"].keys() == {"hf", "adapter"}
    assert found["exports"]["adapter"]["kl"] == pytest.approx(0, abs=1e-4)
    assert (
        tmp_path / "runs" / "smollm2-shape" / "export" / "hf" / "model.safetensors"
    ).stat().st_size > 500e6  # float32
    assert found["peak_rss_mib"] < RSS_LIMIT_MIB
