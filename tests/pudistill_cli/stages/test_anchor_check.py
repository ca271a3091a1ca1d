"""Anchors that the run's metric grades too low are kept, counted, and not learned from."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.tiny import SIZES, Ended, Tiny, lines_of, write_lines

Call = Callable[..., Ended]
BOOKS = {"name": "regex", "pattern": '"do": ?"book"'}


def make(folder: Path, metric: Any = BOOKS, least: float = 1.0, **changes: Any) -> Tiny:
    teacher = {"kind": "file", "path": "anchors.jsonl", "min_score": least}
    return Tiny.make(folder, teacher=teacher, eval={"metric": metric}, **changes)


def answers(tiny: Tiny, split: str) -> dict[str, str]:
    """The teacher's, by prompt."""
    asked = {r["prompt"] for r in lines_of(tiny.folder / f"{split}.jsonl")}
    return {r["prompt"]: r["answer"] for r in lines_of(tiny.folder / "anchors.jsonl") if r["prompt"] in asked}


def books(texts: dict[str, str]) -> set[str]:
    return {prompt for prompt, text in texts.items() if json.loads(text)["do"] == "book"}


def used(tiny: Tiny, split: str) -> set[str]:
    """The prompts whose anchors have the student's token ids: those that are used."""
    rows = tiny.rows(
        f"SELECT messages FROM prompts JOIN anchors ON key = prompt_key WHERE tokens NOT NULL AND split = '{split}'"
    )
    return {json.loads(messages)[-1]["content"] for (messages,) in rows}


def test_what_is_graded_too_low_is_said_counted_and_not_learned_from(tmp_path: Path, call: Call) -> None:
    tiny = make(tmp_path)
    good = {split: books(answers(tiny, split)) for split in SIZES}
    bad = sum(SIZES.values()) - sum(map(len, good.values()))
    assert good["train"]
    assert bad
    ended = call(*tiny.arguments("--until", "anchors"))
    assert ended.code == 0, ended.err
    said = f"{bad} of {sum(SIZES.values())} anchors are not learned from: regex grades them below teacher.min_score 1."
    assert ended.flat.count(said) == 1
    assert {split: used(tiny, split) for split in SIZES} == good
    assert dict(tiny.rows("SELECT status, count(*) FROM anchors GROUP BY status")) == {
        "ok": sum(SIZES.values()) - bad,
        "refused": bad,
    }
    details = tiny.rows("SELECT DISTINCT detail FROM anchors WHERE status = 'refused'")
    assert details == [("regex grades it 0, below teacher.min_score 1",)]
    assert tiny.value("SELECT count(*) FROM anchors WHERE text = ''") == 0  # they are kept

    again = call(*tiny.arguments("--until", "sft"))
    assert again.code == 0, again.err
    assert "anchors are not learned from" not in again.flat
    assert json.loads(tiny.value("SELECT detail FROM stages WHERE name = 'sft'"))["rows"] == len(good["train"])


@pytest.mark.slow
def test_what_is_trained_on_stays_and_the_report_says_what_was_left_out(tmp_path: Path, call: Call) -> None:
    tiny = make(tmp_path, prefer={"rounds": 0}, export={"formats": ["adapter"]})
    bad = sum(len(a) - len(books(a)) for a in (answers(tiny, split) for split in SIZES))
    assert call(*tiny.arguments()).code == 0
    assert f"{bad} of {sum(SIZES.values())} anchors: graded below teacher.min_score" in (
        tiny.run / "report.html"
    ).read_text(encoding="utf-8")
    before = tiny.rows("SELECT * FROM anchors ORDER BY prompt_key")
    ended = call("eval", str(tiny.run), "--set", "eval.metric=json")  # which would grade them otherwise
    assert ended.code == 0, ended.err
    assert tiny.rows("SELECT * FROM anchors ORDER BY prompt_key") == before
    ended = call(*tiny.arguments("--set", "eval.metric=json"))
    assert ended.code == 7
    assert "teacher.min_score.metric: regex {" in ended.flat
    assert "-> json" in ended.flat


def test_before_a_stage_has_finished_another_metric_grades_anew(tmp_path: Path, call: Call) -> None:
    tiny = make(tmp_path)
    assert call(*tiny.arguments("--until", "anchors")).code == 0
    ended = call(*tiny.arguments("--until", "anchors", "--set", "eval.metric={name: regex, pattern: .}"))
    assert ended.code == 0, ended.err
    assert used(tiny, "train") == answers(tiny, "train").keys()


@pytest.mark.parametrize(
    ("metric", "least", "said"),
    [
        ("exact", 1.0, "anchors are not learned from: exact"),
        ({"name": "json", "fields": ["do", "event"]}, 0.5, "anchors are not learned from: json"),
    ],
)
def test_against_the_reference_where_there_is_one(
    metric: Any, least: float, said: str, tmp_path: Path, call: Call
) -> None:
    """The first answer is spoiled: `{}` is JSON and has none of the reference's fields."""
    tiny = make(tmp_path, metric, least)
    right = {prompt: text for split in SIZES for prompt, text in answers(tiny, split).items()}
    for split in SIZES:
        records = [{"prompt": p, "reference": text} for p, text in answers(tiny, split).items()]
        write_lines(tmp_path / f"{split}.jsonl", records)
    first = lines_of(tmp_path / "train.jsonl")[0]["prompt"]
    write_lines(tmp_path / "anchors.jsonl", [{"prompt": p, "answer": t} for p, t in (right | {first: "{}"}).items()])
    ended = call(*tiny.arguments("--until", "anchors"))
    assert ended.code == 0, ended.err
    assert f"1 of {sum(SIZES.values())} {said}" in ended.flat
    assert used(tiny, "train") == answers(tiny, "train").keys() - {first}


def without_references(tiny: Tiny) -> None:
    for split in SIZES:
        path = tiny.folder / f"{split}.jsonl"
        path.write_text("".join(json.dumps({"prompt": r["prompt"]}) + "\n" for r in lines_of(path)))


def test_without_references_what_needs_none_is_asked(tmp_path: Path, call: Call) -> None:
    tiny = make(tmp_path, "json")
    without_references(tiny)
    path = tmp_path / "anchors.jsonl"
    path.write_text(path.read_text().replace('"answer": "{', '"answer": "Sure! {', 1))
    ended = call(*tiny.arguments("--until", "anchors"))
    assert ended.code == 0, ended.err
    assert "1 of 28 anchors are not learned from: json" in ended.flat


def test_what_cannot_be_checked_is_said_and_kept(tmp_path: Path, call: Call) -> None:
    tiny = make(tmp_path, "exact")
    without_references(tiny)
    ended = call(*tiny.arguments("--until", "anchors"))
    assert ended.code == 0, ended.err
    assert "28 of 28 anchors are not checked: their prompts have no reference, and exact says nothing" in ended.flat
    assert used(tiny, "train") == answers(tiny, "train").keys()


def test_nothing_that_passes_is_one_message(tmp_path: Path, call: Call) -> None:
    tiny = make(tmp_path, {"name": "contains", "strings": ["never there"]}, 0.5)
    ended = call(*tiny.arguments())
    assert ended.code == 3
    assert "contains grades it 0, below teacher.min_score 0.5" in ended.flat


@pytest.mark.parametrize("options", [(), ("--dry-run",)])
def test_a_check_without_a_metric_is_refused(options: tuple[str, ...], tmp_path: Path, call: Call) -> None:
    ended = call(*make(tmp_path, "none").arguments(*options))
    assert ended.code == 2
    assert "teacher.min_score is given, and nothing grades" in ended.flat
    assert "--set eval.metric=json" in ended.flat
