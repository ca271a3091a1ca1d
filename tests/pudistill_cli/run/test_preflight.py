"""What is found before the first question is paid for: by `run`, by its dry run and by `anchors` alike."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer

from tests.pudistill_cli.teacher.server import Response, Server, fails, says
from tests.tiny import SIZES, STUDENT, Ended, Tiny, lines_of, write_lines

pytest.importorskip("torch", reason="needs a backend")

Call = Callable[..., Ended]
ALL = sum(SIZES.values())
KEY = "canary-5d1e83b1d8c04f5b"
WAYS = pytest.mark.parametrize("way", ["--dry-run", "run", "anchors"])


@pytest.fixture
def server() -> Iterator[Server]:
    with Server(lambda request: says('{"do":"book"}')).running() as running:
        yield running


@pytest.fixture
def begin(tmp_path: Path, call: Call) -> Callable[..., Ended]:
    """A command on a recipe, until just behind the anchors."""

    def started(tiny: Tiny, way: str, *options: str) -> Ended:
        if way == "anchors":
            return call("anchors", str(tiny.recipe), "--out", str(tmp_path / "out.jsonl"), *options)
        return call(*tiny.arguments(*(["--dry-run"] if way == "--dry-run" else ["--until", "anchors"]), *options))

    return started


def remote(folder: Path, server: Server, teacher: dict[str, Any] | None = None, **changes: Any) -> Tiny:
    settings = {"kind": "openai", "model": "m", "base_url": server.url, "retries": 0, "max_tokens": 64}
    return Tiny.make(folder, teacher={**settings, **(teacher or {})}, **changes)


def stopped(ended: Ended, code: int, server: Server, *words: str) -> None:
    """Nothing was asked."""
    assert ended.code == code, ended.err
    assert "Traceback" not in ended.err
    for word in words:
        assert word in ended.flat
    assert server.requests == []


def long_prompts(tiny: Tiny, name: str, numbers: range) -> None:
    """Make some prompts longer than the student's 256 tokens."""
    path = tiny.folder / f"{name}.jsonl"
    records = lines_of(path)
    for i in numbers:
        records[i] = {"prompt": f"{i} " + "book a table " * 200}
    write_lines(path, records)


# --- prompts ---


@WAYS
def test_prompts_that_do_not_fit_the_student_are_not_asked(
    way: str, server: Server, tmp_path: Path, begin: Callable[..., Ended]
) -> None:
    tiny = remote(tmp_path, server)
    long_prompts(tiny, "train", range(2))
    long_prompts(tiny, "test", range(5, 6))
    ended = begin(tiny, way)
    assert ended.code == 0, ended.err
    assert f"2 of {SIZES['train']} train prompts do not fit the context of 256 tokens and are left out, unasked" in (
        ended.flat
    )
    assert f"1 of {SIZES['test']} test prompts do not fit" in ended.flat
    assert "train.jsonl:1, of" in ended.flat
    assert len(server.requests) == (0 if way == "--dry-run" else ALL - 3)
    if way == "--dry-run":
        assert f"{ALL - 3} questions to ask" in " ".join(ended.out.split())


@WAYS
def test_no_training_prompt_that_fits(way: str, server: Server, tmp_path: Path, begin: Callable[..., Ended]) -> None:
    tiny = remote(tmp_path, server)
    long_prompts(tiny, "train", range(SIZES["train"]))
    stopped(begin(tiny, way), 3, server, "No training prompt fits the context of 256 tokens")


@WAYS
def test_a_context_that_the_recipe_lowers(
    way: str, server: Server, tmp_path: Path, begin: Callable[..., Ended]
) -> None:
    tiny = remote(tmp_path, server, student={"context": 3})
    stopped(begin(tiny, way), 3, server, "No training prompt fits the context of 3 tokens")


@WAYS
def test_answers_that_may_not_fit_are_worth_a_word(
    way: str, server: Server, tmp_path: Path, begin: Callable[..., Ended]
) -> None:
    ended = begin(remote(tmp_path, server, {"max_tokens": 250}), way)
    assert "may get an answer that is paid for and does not fit: teacher.max_tokens is 250" in ended.flat
    server.requests.clear()
    assert "does not fit" not in begin(remote(tmp_path, server, {"max_tokens": 10}), way).flat


@WAYS
def test_a_token_that_the_student_has_no_embedding_for(
    way: str, server: Server, tmp_path: Path, begin: Callable[..., Ended]
) -> None:
    student = tmp_path / "student"
    shutil.copytree(STUDENT, student)
    tokenizer = Tokenizer.from_file(str(student / "tokenizer.json"))
    tokenizer.add_special_tokens(["<tool>"])
    tokenizer.save(str(student / "tokenizer.json"))
    tiny = remote(tmp_path, server, student={"model": str(student)})
    write_lines(tiny.folder / "dev.jsonl", [*lines_of(tiny.folder / "dev.jsonl"), {"prompt": "use <tool>"}])
    stopped(begin(tiny, way), 3, server, "dev.jsonl:7 (<tool>)")


@WAYS
def test_a_share_that_leaves_nothing_for_the_rounds(
    way: str, server: Server, tmp_path: Path, begin: Callable[..., Ended]
) -> None:
    tiny = remote(tmp_path, server, sft={"share": 0.99})
    stopped(begin(tiny, way), 3, server, "sft.share 0.99 of 16 anchored prompts leaves none")


@WAYS
def test_a_judge_that_has_no_room_for_any_prompt(
    way: str, server: Server, tmp_path: Path, begin: Callable[..., Ended]
) -> None:
    view = "{prompt}" + " as in the example before" * 100 + " {anchor}"
    ended = begin(remote(tmp_path, server, rank={"view": view}), way)
    assert "No prompt can be ranked: with an answer in view even the shortest, " in ended.flat
    assert "No prompt can be ranked" not in begin(remote(tmp_path, server), "--dry-run").flat


def test_anchors_says_what_is_wrong_with_a_student_that_is_here(
    server: Server, tmp_path: Path, begin: Callable[..., Ended]
) -> None:
    """Its weights may be on the other machine: this is no error."""
    student = tmp_path / "student"
    shutil.copytree(STUDENT, student)
    (student / "model.safetensors").unlink()
    ended = begin(remote(tmp_path, server, student={"model": str(student)}), "anchors")
    assert ended.code == 0, ended.err
    assert "The student cannot be trained as it is here: " in ended.flat


# --- a file of answers ---


@WAYS
def test_prompts_without_an_answer_in_the_file_are_named(way: str, tmp_path: Path, begin: Callable[..., Ended]) -> None:
    tiny = Tiny.make(tmp_path)
    gone = {lines_of(tiny.folder / f"{name}.jsonl")[at]["prompt"] for name, at in (("train", 3), ("dev", 0))}
    answers = [r for r in lines_of(tiny.folder / "anchors.jsonl") if r["prompt"] not in gone]
    write_lines(tiny.folder / "anchors.jsonl", answers)
    ended = begin(tiny, way)
    assert ended.code == 0, ended.err
    assert (
        f"anchors.jsonl has no answer to 2 of {ALL} prompts: {tiny.folder}/train.jsonl:4, {tiny.folder}/dev.jsonl:1"
        in (ended.flat)
    )


@WAYS
def test_a_file_that_answers_other_prompts(way: str, tmp_path: Path, begin: Callable[..., Ended]) -> None:
    tiny = Tiny.make(tmp_path)
    records = [{"prompt": r["prompt"] + " ", "answer": r["answer"]} for r in lines_of(tiny.folder / "anchors.jsonl")]
    write_lines(tiny.folder / "anchors.jsonl", records)
    ended = begin(tiny, way)
    assert ended.code == 3
    assert "has no usable answer to any of the 16 training prompts (without one:" in ended.flat
    assert "to the letter" in ended.flat
    assert not tiny.runs.exists()


@WAYS
def test_a_file_of_refusals(way: str, tmp_path: Path, begin: Callable[..., Ended]) -> None:
    tiny = Tiny.make(tmp_path)
    records = [{**r, "answer": "I can't help with that."} for r in lines_of(tiny.folder / "anchors.jsonl")]
    write_lines(tiny.folder / "anchors.jsonl", records)
    ended = begin(tiny, way)
    assert ended.code == 3
    assert "no usable answer to any of the 16 training prompts (16 refused)" in ended.flat


# --- an endpoint ---


@WAYS
def test_a_key_that_is_not_accepted(
    way: str, server: Server, tmp_path: Path, begin: Callable[..., Ended], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TEST_KEY", KEY)
    server.models = fails(401, f"Incorrect API key: {KEY}")
    ended = begin(remote(tmp_path, server, {"api_key_env": "TEST_KEY"}), way)
    stopped(ended, 4, server, "does not accept the key (HTTP 401)", "teacher.api_key_env")
    assert KEY not in ended.out + ended.err


@WAYS
def test_a_key_that_is_not_set(
    way: str, server: Server, tmp_path: Path, begin: Callable[..., Ended], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("TEST_KEY", raising=False)
    stopped(begin(remote(tmp_path, server, {"api_key_env": "TEST_KEY"}), way), 4, server, "TEST_KEY")
    assert server.lists == []


@WAYS
def test_a_model_that_is_not_in_the_list(way: str, server: Server, tmp_path: Path, begin: Callable[..., Ended]) -> None:
    server.models = Response(body=json.dumps({"data": [{"id": "mm"}]}).encode())
    ended = begin(remote(tmp_path, server), way)
    assert ended.code == 0, ended.err
    assert "does not list the model 'm' (did you mean 'mm'?); it lists mm" in ended.flat


@WAYS
@pytest.mark.parametrize(
    ("limit", "words"),
    [
        ({"max_tokens_total": 64}, "teacher.max_tokens_total (64) has no room for a single question"),
        ({"max_cost": 0.5, "price_out": 1e4}, "teacher.max_cost (0.5) has no room for a single question"),
    ],
)
def test_a_limit_without_room_for_one_question(
    limit: dict[str, Any], words: str, way: str, server: Server, tmp_path: Path, begin: Callable[..., Ended]
) -> None:
    stopped(begin(remote(tmp_path, server, limit), way), 4, server, words, "lower teacher.max_tokens")


@WAYS
def test_with_every_answer_at_hand_nobody_is_asked_anything(
    way: str, server: Server, tmp_path: Path, begin: Callable[..., Ended]
) -> None:
    """Not even for the models, and without a key."""
    tiny = remote(tmp_path, server)
    assert begin(tiny, "anchors").code == 0
    server.requests.clear()
    server.lists.clear()
    server.models = fails(401)
    assert begin(remote(tmp_path, server), way, "--set", "teacher.api_key_env=NO_SUCH_KEY").code == 0
    assert server.requests == server.lists == []


@pytest.mark.parametrize("way", ["--dry-run", "run"])
def test_offline_with_answers_missing(way: str, server: Server, tmp_path: Path, begin: Callable[..., Ended]) -> None:
    tiny = remote(tmp_path, server)
    stopped(begin(tiny, way, "--offline"), 4, server, f"{ALL} of {ALL} prompts have no answer yet", "--offline")
    assert server.lists == []
    assert not tiny.runs.exists()


# --- the dry run's figures ---


def plan_of(ended: Ended) -> dict[str, Any]:
    assert ended.code == 0, ended.err
    return ended.events[-1]


def test_a_dry_run_counts_questions_and_what_they_cost_at_most(
    server: Server, tmp_path: Path, begin: Callable[..., Ended]
) -> None:
    prices = {"price_in": 100.0, "price_out": 1000.0, "max_cost": 5.0}
    tiny = remote(tmp_path, server, prices)
    prompts = [r["prompt"] for name in SIZES for r in lines_of(tiny.folder / f"{name}.jsonl")]
    most = sum(len(prompt.encode()) + 8 for prompt in prompts)  # a token a byte, and the template's eight
    cost = (most * 100 + ALL * 64 * 1000) / 1e6
    plan = plan_of(begin(tiny, "--dry-run", "--json"))
    assert plan["teacher"] == f"m at {server.url}: {ALL} questions to ask, 0 answers in the cache"
    assert plan["cost"] == (
        f"at most {cost:.4f} ({most:,} tokens of prompts and {ALL * 64:,} of answers); teacher.max_cost stops it at 5"
    )
    assert (plan["questions"], plan["in_cache"], plan["in_run"]) == (ALL, 0, 0)
    assert server.requests == []
    for way in ("run", "anchors"):
        assert f"cost: {plan['cost']}" in begin(tiny, way, "--set", f"name={way}", "--set", f"teacher.model={way}").flat


def test_a_dry_run_counts_what_is_there_already(server: Server, tmp_path: Path, begin: Callable[..., Ended]) -> None:
    tiny = remote(tmp_path, server, {"max_calls": 5, "concurrency": 1})
    assert begin(tiny, "run").code == 4  # after five
    tiny = remote(tmp_path, server)
    assert (
        f"{ALL - 5} questions to ask, 0 answers in the cache, 5 answered in this run before"
        in (plan_of(begin(tiny, "--dry-run", "--json"))["teacher"])
    )
    other = plan_of(begin(tiny, "--dry-run", "--json", "--name", "other"))
    assert f"{ALL - 5} questions to ask, 5 answers in the cache" in other["teacher"]
    assert "teacher.price_in and teacher.price_out would say" in other["cost"]


# --- where the answers go ---


@pytest.mark.parametrize("name", ["train.jsonl", "anchors.jsonl", "tiny.yaml"])
def test_anchors_overwrites_no_file_that_it_reads(name: str, tmp_path: Path, call: Call) -> None:
    tiny = Tiny.make(tmp_path)
    before = (tiny.folder / name).read_bytes()
    ended = call("anchors", str(tiny.recipe), "--out", str(tiny.folder / name))
    assert ended.code == 2
    assert "is a file that the recipe reads" in ended.flat
    assert (tiny.folder / name).read_bytes() == before


@pytest.mark.parametrize(("out", "code"), [("none/out.jsonl", 7), (".", 2)])
def test_anchors_looks_first_whether_it_can_write(
    out: str, code: int, server: Server, tmp_path: Path, call: Call
) -> None:
    tiny = remote(tmp_path, server)
    stopped(call("anchors", str(tiny.recipe), "--out", str(tmp_path / out)), code, server, str(tmp_path), "--out")


@pytest.mark.skipif(
    os.name == "nt" or not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write anywhere"
)
def test_anchors_without_permission(server: Server, tmp_path: Path, call: Call) -> None:
    (tmp_path / "closed").mkdir(mode=0o500)
    tiny = remote(tmp_path, server)
    stopped(call("anchors", str(tiny.recipe), "--out", str(tmp_path / "closed" / "out.jsonl")), 7, server, "--out")
