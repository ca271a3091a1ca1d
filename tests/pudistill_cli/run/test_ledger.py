"""The ledger: exact round trips, redoing replaces, and the queries of docs/ledger.md as they stand there."""

from __future__ import annotations

import json
import math
import re
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from pudistill_cli.config.stages import Stage
from pudistill_cli.errors import RunError
from pudistill_cli.method.preferences import PreferenceSettings, ScoredGroup, group_scale, identities, targets
from pudistill_cli.method.statistics import Interval
from pudistill_cli.prompts import Prompt
from pudistill_cli.run.ledger import VERSION, Ledger
from pudistill_cli.run.ledger_answers import HeldAnswer, StoredAnswer
from pudistill_cli.run.marks import Mark
from pudistill_cli.run.rollouts import CLAIMS, REWRITES, of_round
from pudistill_cli.stages.ending import Ending, Reason
from pudistill_cli.teacher.answers import Answer
from pudistill_cli.types import Candidate, Message
from tests.tiny import ROOT

ROUND = of_round(1)
DOCS = ROOT / "docs" / "ledger.md"


def prompt(key: str, split: str = "train") -> Prompt:
    return Prompt(key, (Message("system", "Sé breve."), Message("user", f"Q {key}?")), split, None, "p.jsonl", 1)


def candidate(*tokens: int, finish: str = "stop") -> Candidate:
    logprobs = np.log(np.linspace(0.1, 0.9, len(tokens), dtype=np.float32))
    return Candidate(tokens, logprobs, finish)  # type: ignore[arg-type]


def answer(text: str, status: str = "ok") -> Answer:
    return Answer(text, status, "stop", status == "ok", 7, 9, "why")  # type: ignore[arg-type]


@pytest.fixture
def ledger(tmp_path: Path):
    with closing(Ledger(tmp_path / "ledger.sqlite")) as opened:
        opened.add_prompts([prompt("a"), prompt("b"), prompt("t", "test")])
        yield opened


def read(ledger: Ledger, query: str) -> list[tuple[object, ...]]:
    """As a user would: another connection."""
    with closing(sqlite3.connect(f"file:{ledger.path}?mode=ro", uri=True)) as db:
        return db.execute(query).fetchall()


def test_the_file_is_in_wal_mode_and_says_its_version(ledger: Ledger):
    assert read(ledger, "PRAGMA journal_mode") == [("wal",)]
    assert read(ledger, "PRAGMA user_version") == [(VERSION,)]
    assert read(ledger, "PRAGMA integrity_check") == [("ok",)]


def test_a_newer_file_is_refused_and_left_alone(tmp_path: Path):
    path = tmp_path / "ledger.sqlite"
    with closing(sqlite3.connect(path)) as db:
        db.execute(f"PRAGMA user_version = {VERSION + 1}")
    before = path.read_bytes()
    with pytest.raises(RunError, match=f"newer pudistill: its schema has version {VERSION + 1}") as error:
        Ledger(path)
    assert "pip install -U pudistill" in error.value.hint
    assert path.read_bytes() == before


@pytest.mark.parametrize("content", [b"not a database" * 100, None])
def test_a_file_that_is_no_ledger_is_one_message(tmp_path: Path, content: bytes | None):
    path = tmp_path / "ledger.sqlite"
    path.mkdir() if content is None else path.write_bytes(content)
    with pytest.raises(RunError, match="cannot be used"):
        Ledger(path)


def test_prompts_are_updated_in_place_and_the_first_of_two_counts(ledger: Ledger):
    ledger.add_anchor("a", answer("A"), "teacher")
    ledger.add_prompts([prompt("a", "dev"), prompt("a", "other")])
    assert read(ledger, "SELECT split FROM prompts WHERE key = 'a'") == [("dev",)]
    assert ledger.anchors()["a"].text == "A"
    roles = "SELECT m.value ->> 'role' FROM prompts, json_each(messages) AS m WHERE prompts.key = 'a'"
    assert read(ledger, roles) == [("system",), ("user",)]


def test_anchors_come_back_and_errors_are_asked_again_until_a_stage_has_finished(ledger: Ledger):
    ledger.add_anchor("a", answer("A"), "teacher")
    ledger.add_anchor("b", answer("", "error"), "teacher")
    ledger.begin_stage("sft")
    assert ledger.anchors() == {"a": answer("A")}
    ledger.finish_stage("sft", {})
    assert ledger.anchors() == {"a": answer("A"), "b": answer("", "error")}
    ledger.add_anchor_tokens({"a": (5, 6, 2)})
    assert read(ledger, "SELECT value FROM anchors, json_each(tokens) WHERE prompt_key = 'a'") == [(5,), (6,), (2,)]


def test_candidates_come_back_to_the_last_bit(ledger: Ledger):
    rng = np.random.default_rng(0)
    # Every float32 pattern that a log-prob can have, among them subnormals and the largest.
    bits = rng.integers(0, 0x7F7FFFFF, 500, dtype=np.uint32) | np.uint32(0x80000000)
    logprobs = np.concatenate([bits.view(np.float32), np.array([-0.0, 0.0, -1e-45, -3.4028235e38], np.float32)])
    drawn = [Candidate(tuple(range(len(logprobs))), logprobs, "length"), candidate(3)]
    ledger.add_group(ROUND, "a", drawn, ["one", "two\n\U0001f600"])
    first, second = ledger.candidates(ROUND)["a"]
    assert first.logprobs.dtype == np.float32
    assert first.logprobs.tobytes() == logprobs.tobytes()
    assert (first.tokens, first.finish) == (drawn[0].tokens, "length")
    assert second.tokens == (3,)
    assert ledger.candidates(of_round(2)) == {}
    assert read(ledger, "SELECT text FROM candidates ORDER BY k") == [("one",), ("two\n\U0001f600",)]


def test_a_group_done_again_replaces_all_of_it(ledger: Ledger):
    ledger.add_group(ROUND, "a", [candidate(1), candidate(2), candidate(3)], ["x", "y", "z"])
    ledger.add_group(ROUND, "b", [candidate(4)], ["w"])
    ledger.add_scores(ROUND, "a", "likelihood", [0.1, 0.2, 0.3], anchor=1.0)
    ledger.add_scores(ROUND, "b", "likelihood", [0.4])
    ledger.add_group(ROUND, "a", [candidate(9)], ["new"])
    assert read(ledger, "SELECT prompt_key, k, text FROM candidates ORDER BY 1") == [("a", 0, "new"), ("b", 0, "w")]
    assert list(ledger.scores(ROUND, "likelihood")) == ["b"]
    assert read(ledger, "SELECT count(*) FROM anchor_scores") == [(0,)]


def test_a_group_is_whole_or_not_there(ledger: Ledger):
    ledger.add_group(ROUND, "a", [candidate(1)], ["x"])
    with pytest.raises(RunError, match="CHECK constraint failed"):
        ledger.add_group(ROUND, "a", [candidate(1), candidate(2, finish="stopped")], ["new", "new"])
    with pytest.raises(RunError, match="FOREIGN KEY"):
        ledger.add_group(ROUND, "unknown", [candidate(1)], ["x"])
    assert read(ledger, "SELECT prompt_key, text FROM candidates") == [("a", "x")]


def test_scores_keep_their_order_and_every_bit(ledger: Ledger):
    scores = np.random.default_rng(1).normal(size=12)
    ledger.add_group(ROUND, "a", [candidate(i) for i in range(12)], [str(i) for i in range(12)])
    ledger.add_scores(ROUND, "a", "pmi", scores)
    ledger.add_scores(ROUND, "a", "likelihood", -scores, anchor=0.1)
    ledger.add_scores(ROUND, "a", "likelihood", scores[::-1], anchor=0.2)
    found = ledger.scores(ROUND, "likelihood")["a"]
    assert found.candidates.tolist() == scores[::-1].tolist()
    assert found.anchor == 0.2
    assert ledger.scores(ROUND, "pmi")["a"].anchor is None
    with pytest.raises(ValueError, match="shorter"):
        ledger.add_scores(ROUND, "a", "likelihood", scores[:-1])


def test_anchors_scored_alone_are_kept_and_go_with_the_group(ledger: Ledger):
    ledger.add_group(ROUND, "a", [candidate(1)], ["x"])
    ledger.add_anchor_scores(ROUND, "likelihood/rewrite", {"a": -0.1, "b": -1 / 3})
    ledger.add_anchor_scores(ROUND, "likelihood/rewrite", {"a": -0.2})
    assert ledger.anchor_scores(ROUND, "likelihood/rewrite") == {"a": -0.2, "b": -1 / 3}
    assert ledger.anchor_scores(of_round(2), "likelihood/rewrite") == ledger.anchor_scores(ROUND, "likelihood") == {}
    ledger.add_group(ROUND, "a", [candidate(2)], ["y"])
    assert ledger.anchor_scores(ROUND, "likelihood/rewrite") == {"b": -1 / 3}
    with pytest.raises(RunError, match="FOREIGN KEY"):
        ledger.add_anchor_scores(ROUND, "pmi/rewrite", {"a": 0.0, "unknown": 0.0})
    assert ledger.anchor_scores(ROUND, "pmi/rewrite") == {}


def test_targets_say_what_the_update_was_told(ledger: Ledger):
    scores = np.array([1.0, 3.0, 2.0, 3.0])  # two candidates that count, one cut off, and the anchor
    group = ScoredGroup(scores, identities([(1,), (2,), (3,), (4,)]), np.array([False, False, True, False]))
    told = targets(group, PreferenceSettings(), run_deviation=0.0)
    ledger.add_group(ROUND, "a", [candidate(1), candidate(2), candidate(3, finish="length")], ["x", "y", "z"])
    ledger.add_scores(ROUND, "a", "likelihood", scores[:-1], anchor=3.0)
    ledger.add_targets(1, "a", "likelihood", told, group_scale(scores[told.member == 1], 0.0))
    ((member, label, advantage, pairs),) = read(ledger, "SELECT member, label, advantage, pairs FROM groups")
    assert json.loads(str(member)) == [1, 1, 0, 1]
    assert json.loads(str(label)) == told.label.tolist()
    assert json.loads(str(advantage)) == told.advantage.tolist()
    assert (ledger.scales(1), ledger.scales(2)) == ({"a": group_scale(scores[told.member == 1], 0.0)}, {})
    assert [(p["chosen"], p["rejected"]) for p in json.loads(str(pairs))] == [(3, 0), (1, 0)]
    ledger.add_scores(ROUND, "a", "pmi", -scores[:-1])  # it did not decide: the label stays
    by_pmi = read(ledger, "SELECT k, place, label FROM ranked_candidates WHERE scorer = 'pmi' ORDER BY place")
    assert by_pmi == [(0, 1, told.label[0]), (2, 2, 0), (1, 3, told.label[1])]
    ranked = read(ledger, "SELECT k, place, label FROM ranked_candidates WHERE scorer = 'likelihood' ORDER BY place")
    assert ranked == [(1, 1, told.label[1]), (2, 2, 0), (0, 3, told.label[0])]


def test_a_step_done_again_replaces_its_metrics(ledger: Ledger):
    ledger.add_metrics("sft", 0, 0, {"loss": 2.0, "lr": 1e-3})
    ledger.add_metrics("sft", 0, 1, {"loss": 1.5})
    ledger.add_metrics("sft", 0, 1, {"loss": 1.25, "kendall": math.nan, "exact": Interval(0.5, 0.25, 0.75)})
    found = [(m.step, m.name, m.value, m.low, m.high) for m in ledger.metrics("sft") if m.name != "kendall"]
    assert found == [
        (0, "loss", 2.0, None, None),
        (0, "lr", 1e-3, None, None),
        (1, "loss", 1.25, None, None),
        (1, "exact", 0.5, 0.25, 0.75),
    ]
    assert [math.isnan(m.value) for m in ledger.metrics("sft") if m.name == "kendall"] == [True]
    assert read(ledger, "SELECT value FROM metrics WHERE name = 'kendall'") == [(None,)]


def test_stages_are_done_when_finished_and_stay_so_until_they_are_again(ledger: Ledger):
    ledger.begin_stage("sft")
    assert not ledger.stage_done("sft")
    ledger.finish_stage("sft", {"loss": 0.1, "steps": 3, "nan": math.nan})
    ledger.begin_stage("dev/sft")
    ledger.finish_stage("dev/sft", {})
    assert ledger.stage_done("sft")
    assert ledger.stage_detail("sft") == {"loss": 0.1, "steps": 3, "nan": None}
    assert ledger.finished_stages() == {"sft", "dev/sft"}
    ledger.begin_stage("sft")
    assert ledger.stage_detail("sft")["loss"] == 0.1
    ledger.finish_stage("sft", {"loss": 0.2})
    assert ledger.stage_detail("sft") == {"loss": 0.2}


def test_sums_are_kept_by_name_and_replaced_as_a_whole(ledger: Ledger):
    ledger.keep_sums({"adapters/sft": {"a": "1", "b": "2"}, "results.json": {"": "3"}})
    ledger.keep_sums({"adapters/sft": {"b": "4"}})
    assert ledger.sums() == {"adapters/sft": {"b": "4"}, "results.json": {"": "3"}}
    ledger.forget_sums("results.json", "export/hf")
    assert ledger.sums() == {"adapters/sft": {"b": "4"}}


def test_a_stage_is_finished_together_with_its_sums(ledger: Ledger):
    ledger.begin_stage(Mark.SFT())
    with pytest.raises(RunError, match="NOT NULL"):
        ledger.finish_stage(Mark.SFT(), {}, {"adapters/sft": {"a": None}})  # type: ignore[dict-item]
    assert not ledger.stage_done(Mark.SFT())
    ledger.finish_stage(Mark.SFT(), {}, {"adapters/sft": {"a": "1"}})
    assert (ledger.stage_done(Mark.SFT()), ledger.sums()) == (True, {"adapters/sft": {"a": "1"}})


def test_a_mark_goes_with_the_stage_that_it_was_a_part_of(ledger: Ledger):
    for mark in ("sft/checkpoint", "round-1/checkpoint"):
        ledger.begin_stage(mark)
        ledger.finish_stage(mark, {"steps": 3})
    ledger.begin_stage("sft")
    ledger.finish_stage("sft", {}, over="sft/checkpoint")
    assert ledger.finished_stages() == {"sft", "round-1/checkpoint"}
    ledger.forget_stage("round-1/checkpoint")
    ledger.forget_stage("round-2/checkpoint")
    assert read(ledger, "SELECT name FROM stages") == [("sft",)]


def test_eval_answers_come_back_by_system_set_and_temperature(ledger: Ledger):
    ledger.add_prompts([prompt("u", "test")])
    three = [StoredAnswer(text, (i, 2), "stop") for i, text in enumerate("xyz")]
    ledger.add_eval_answers("round-1", "test", 0.7, "t", three)
    ledger.add_eval_answers("base", "test", 0.7, "t", three[:1])
    ledger.add_eval_answers("round-1", "test", 0, "t", [StoredAnswer("greedy", (), "length")])
    ledger.add_eval_answers("round-1", "test", 0.7, "u", three[:2])
    ledger.add_eval_answers("round-1", "test", 0.7, "u", three[1:2])
    assert ledger.eval_answers("round-1", "test", 0.7) == {"t": three, "u": three[1:2]}
    assert ledger.eval_answers("round-1", "test", 0.0)["t"][0].finish == "length"
    assert ledger.eval_answers("round-1", "dev", 0.7) == {}
    ledger.add_eval_scores("round-1", "test", 0.7, {"t": [0.0, 0.5, 1.0]})
    ledger.add_eval_scores("round-1", "test", 0, {"t": [0.25]})
    assert ledger.answers_to("t") == [HeldAnswer("round-1", "greedy", 0.25), HeldAnswer("base", "x", None)]
    means = "SELECT system, avg(score) FROM eval_answers WHERE prompt_key = 't' AND temperature > 0 GROUP BY system"
    assert read(ledger, means) == [("base", None), ("round-1", 0.5)]


def _finished_run(ledger: Ledger) -> None:
    ledger.add_anchor("a", answer("A"), "teacher")
    ledger.add_group(ROUND, "a", [candidate(1)], ["x"])
    ledger.add_scores(ROUND, "a", "likelihood", [0.5], anchor=1.0)
    for system in ("round-1", "PU-RL"):
        ledger.add_eval_answers(system, "test", 0.0, "t", [StoredAnswer("x", (1,), "stop")])
    for mark in ("sft", "round-1", "dev/round-1", "eval", "export/hf"):
        ledger.begin_stage(mark)
        ledger.finish_stage(mark, {})
    for stage in ("sft", "sft-dev", "prefer", "dev"):
        ledger.add_metrics(stage, 1, 0, {"loss": 1.0})


@pytest.mark.parametrize(
    ("stage", "stages", "metrics", "left"),
    [
        ("export", {"sft", "round-1", "dev/round-1", "eval"}, {"sft", "sft-dev", "prefer", "dev"}, (3, 1, 1, 2)),
        ("eval", {"sft", "round-1"}, {"sft", "sft-dev", "prefer"}, (3, 1, 1, 1)),
        ("prefer", {"sft"}, {"sft", "sft-dev"}, (3, 1, 0, 0)),
        ("sft", set(), set(), (3, 1, 0, 0)),
        ("anchors", set(), set(), (3, 0, 0, 0)),
        ("prompts", set(), set(), (0, 0, 0, 0)),
    ],
)
def test_forgetting_takes_a_stage_and_what_came_after_it(
    ledger: Ledger, stage: str, stages: set[str], metrics: set[str], left: tuple[int, ...]
):
    _finished_run(ledger)
    ledger.forget_from(Stage.named(stage), keep_answers_of=["base", "round-1"])
    assert ledger.finished_stages() == stages
    assert {name for (name,) in read(ledger, "SELECT stage FROM metrics")} == metrics
    tables = ("prompts", "anchors", "candidates", "eval_answers")
    assert tuple(read(ledger, f"SELECT count(*) FROM {t}")[0][0] for t in tables) == left
    assert read(ledger, "SELECT count(*) FROM scores") == read(ledger, "SELECT count(*) FROM anchor_scores")
    assert read(ledger, "SELECT count(*) FROM scores") == [(left[2],)]


@pytest.mark.parametrize(("first", "left"), [(Stage.EVAL, 3), (Stage.PREFER, 1), (Stage.RANK, 1), (Stage.SFT, 0)])
def test_rewrites_are_of_sft_and_the_others_of_what_ranked_them(ledger: Ledger, first: Stage, left: int):
    for rollout in (REWRITES, CLAIMS, ROUND):
        ledger.add_group(rollout, "a", [candidate(1)], ["x"])
    ledger.forget_from(first)
    assert read(ledger, "SELECT count(*) FROM candidates") == [(left,)]
    assert len(ledger.candidates(REWRITES)) == min(left, 1)


def test_what_candidates_were_drawn_for_keeps_them_apart(ledger: Ledger):
    for rollout, text in ((REWRITES, "rewrite"), (CLAIMS, "claim"), (ROUND, "first"), (of_round(2), "second")):
        ledger.add_group(rollout, "a", [candidate(1)], [text])
        if rollout is not REWRITES:
            ledger.add_scores(rollout, "a", "likelihood", [len(text)], anchor=float(len(text)))
    by_purpose = read(ledger, "SELECT purpose, round, text FROM candidates ORDER BY id")
    assert by_purpose == [
        ("rewrite", 0, "rewrite"),
        ("claims", 0, "claim"),
        ("round", 1, "first"),
        ("round", 2, "second"),
    ]
    ledger.add_group(CLAIMS, "a", [candidate(2)], ["another"])
    assert ledger.scores(CLAIMS, "likelihood") == {}
    assert ledger.anchor_scores(ROUND, "likelihood") == {"a": 5.0}
    assert ledger.scores(of_round(2), "likelihood")["a"].candidates.tolist() == [6.0]
    with closing(sqlite3.connect(ledger.path)) as db, pytest.raises(sqlite3.IntegrityError, match="CHECK"):
        db.execute("UPDATE candidates SET round = 0 WHERE purpose = 'round'")


# --- a ledger of schema version 1 ---


def version_1(path: Path, marks: dict[str, object]) -> None:
    """As it was written before purposes: rewrites are round -1, the groups of claims round 0."""
    with closing(sqlite3.connect(path)) as db, db:
        db.executescript(Path(__file__).with_name("schema_1.sql").read_text(encoding="utf-8"))
        db.execute("INSERT INTO prompts VALUES ('a', 'train', '[]', NULL, 'p.jsonl', 1)")
        for number in (-1, 0, 1, 2):
            values = (number + 10, number, "a", 0, "[1]", str(number), "stop", "[-0.5]")
            db.execute("INSERT INTO candidates VALUES (?, ?, ?, ?, ?, ?, ?, ?)", values)
            if number >= 0:
                db.execute("INSERT INTO scores VALUES (?, 'likelihood', ?)", (number + 10, number))
                db.execute("INSERT INTO anchor_scores VALUES (?, 'a', 'likelihood', ?)", (number, -number))
        for name, detail in marks.items():
            values = (name, "2026-11-01T00:00:00Z", "2026-11-02T00:00:00Z", json.dumps(detail))
            db.execute("INSERT INTO stages VALUES (?, ?, ?, ?)", values)
        db.execute("PRAGMA user_version = 1")


def test_an_older_ledger_is_migrated_and_nothing_is_lost(tmp_path: Path):
    gate = {"told": 0.6, "prompts": 12, "used": True}
    version_1(tmp_path / "ledger.sqlite", {"rewrites": gate, "sft": {"loss": 0.1}, "round-1": {}})
    with closing(Ledger(tmp_path / "ledger.sqlite")) as ledger:
        for rollout, number in ((REWRITES, -1), (CLAIMS, 0), (ROUND, 1), (of_round(2), 2)):
            (found,) = ledger.candidates(rollout)["a"]
            assert (found.tokens, found.logprobs.tolist()) == ((1,), [-0.5])
            if number >= 0:
                scores = ledger.scores(rollout, "likelihood")["a"]
                assert (scores.candidates.tolist(), scores.anchor) == ([number], -number)
        assert ledger.finished_stages() == {"rewrites", "sft", "round-1"}
        assert ledger.stage_detail(Mark.REWRITES_GATE()) == {"share_saved": 0.6, "prompts": 12, "used": True}
        assert read(ledger, "PRAGMA user_version") == [(VERSION,)]
        assert read(ledger, "PRAGMA foreign_key_check") == read(ledger, "PRAGMA integrity_check")[1:] == []
        assert read(ledger, "SELECT count(*) FROM ranked_candidates") == [(3,)]
        with ledger._file.transaction() as db:
            db.execute("DELETE FROM prompts")
        assert read(ledger, "SELECT count(*) FROM scores") == [(0,)]


@pytest.mark.parametrize("table", ["candidates", "anchor_scores", "stages", "groups", "scores", "sums"])
def test_a_migrated_ledger_has_the_columns_of_a_new_one(tmp_path: Path, table: str):
    version_1(tmp_path / "old.sqlite", {})
    with closing(Ledger(tmp_path / "old.sqlite")) as old, closing(Ledger(tmp_path / "new.sqlite")) as new:
        for pragma in ("table_info", "foreign_key_list", "index_list"):
            assert read(old, f"PRAGMA {pragma}({table})") == read(new, f"PRAGMA {pragma}({table})")


@pytest.mark.parametrize(
    ("marks", "ending"),
    [
        ({"round-1": {}, "round-2": {}, "dev/stop": {"after": "round-2"}}, (Reason.DEV, 2, 2)),
        (
            {"round-1": {}, "gates/round-2": {"fell": ["likelihood", "pmi", "likelihood"]}},
            (Reason.GATE, 1, "likelihood and pmi", 2),
        ),
        ({"rank": {"passed": []}}, (Reason.NO_SCORER, 0)),
        ({"rank": {"passed": ["pmi"]}, "round-1/prior": {"decision": "too few"}}, (Reason.TOO_FEW, 0)),
        (
            {"round-1/prior": {"decision": "train"}, "round-1": {}, "round-2/prior": {"decision": "nothing left"}},
            (Reason.NOTHING_LEFT, 1),
        ),
        ({"round-1": {}, "round-2/prior": {"decision": "all cut off"}}, (Reason.ALL_CUT_OFF, 1)),
        ({"round-1": {}, "gates/round-2": {"fell": []}, "round-2/prior": {"decision": "train"}}, None),
        ({}, None),
    ],
)
def test_why_an_older_run_ended_is_recorded_as_a_new_one_does(
    tmp_path: Path, marks: dict[str, object], ending: tuple[object, ...] | None
):
    version_1(tmp_path / "ledger.sqlite", marks)
    with closing(Ledger(tmp_path / "ledger.sqlite")) as ledger:
        assert "dev/stop" not in ledger.finished_stages()
        kept = ledger.stage_detail(Mark.ROUNDS_END()) if ledger.stage_done(Mark.ROUNDS_END()) else None
        expected = None if ending is None else Ending.of(*ending)
        assert kept == (
            None if expected is None else {"reason": expected.reason.word, "after": expected.after, "why": expected.why}
        )


def test_what_was_committed_survives_a_kill(tmp_path: Path):
    path = tmp_path / "ledger.sqlite"
    script = f"""
import os, signal
from pathlib import Path
import tests.pudistill_cli.run.test_ledger as t
ledger = t.Ledger(Path({str(path)!r}))
ledger.add_prompts([t.prompt("a"), t.prompt("b")])
ledger.add_group(t.ROUND, "a", [t.candidate(1)], ["x"])
with ledger._file.transaction() as db:
    db.execute("DELETE FROM candidates")
    os.kill(os.getpid(), signal.SIGKILL)
"""
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True)
    assert done.returncode == -9, done.stderr
    with closing(Ledger(path)) as ledger:
        assert list(ledger.candidates(ROUND)) == ["a"]


def test_the_queries_of_the_documentation(ledger: Ledger):
    queries = re.findall(r"```sql\n(.*?)```", DOCS.read_text(encoding="utf-8"), re.DOTALL)
    assert len(queries) == 3
    for key in "ab":
        ledger.add_anchor(key, answer(f"the answer to {key}"), "teacher")
        drawn = [candidate(1, 2), candidate(1, 2, 3), candidate(1, finish="length"), candidate(2, 2)]
        ledger.add_group(ROUND, key, drawn, ["w", "x", "y", "z"])
        ledger.add_scores(ROUND, key, "likelihood", [0.5, 0.75, 0.25, 0.5], anchor=1.0)
    ledger.add_anchor("t", answer("", "refused"), "teacher")
    said, extremes, lengths = (read(ledger, query) for query in queries)
    assert said == [("ok", 2, 9.0, 2), ("refused", 1, 9.0, 0)]
    assert extremes == [
        (f"Q {key}?", f"the answer to {key}", place, score, text)
        for key in "ab"
        for place, score, text in [(1, 0.75, "x"), (4, 0.25, "y")]
    ]
    ((round, count, tokens, logprob, truncated),) = lengths
    assert (round, count, tokens, truncated) == (1, 8, 2.0, 0.25)
    means = [candidate(*range(n)).logprobs.astype(np.float64).mean() for n in (2, 3, 1, 2)]
    assert logprob == pytest.approx(np.mean(means), rel=1e-12)


def test_the_documentation_names_every_table(ledger: Ledger):
    tables = {name for (name,) in read(ledger, "SELECT name FROM sqlite_master WHERE type IN ('table', 'view')")}
    documented = set(re.findall(r"^\| `(\w+)` \|", DOCS.read_text(encoding="utf-8"), re.MULTILINE))
    assert tables == documented | {"ranked_candidates"}
