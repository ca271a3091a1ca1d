"""The command line from end to end: what a run leaves, and that what it leaves is the trained model."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.tiny import SIZES, STUDENT, Ended, Tiny, lines_of

TABLES = ("prompts", "anchors", "candidates", "scores", "anchor_scores", "groups", "metrics", "stages", "eval_answers")


def test_a_run_leaves_its_files(finished: Tiny) -> None:
    run = finished.run
    for path in (
        "recipe.yaml",
        "ledger.sqlite",
        "metrics.jsonl",
        "results.json",
        "report.html",
        *(f"adapters/{name}/adapter_model.safetensors" for name in ("sft", "round-1", "round-2")),
        "export/hf/model.safetensors",
        "export/hf/tokenizer.json",
        "export/hf/chat_template.jinja",
        "export/hf/pudistill.json",
        "export/adapter/adapter_model.safetensors",
    ):
        assert (run / path).is_file(), path
    assert all({"stage", "round", "step"} <= record.keys() for record in lines_of(run / "metrics.jsonl"))


@pytest.mark.parametrize("table", TABLES)
def test_every_table_of_the_ledger_is_filled(table: str, finished: Tiny) -> None:
    assert finished.value(f"SELECT count(*) FROM {table}") > 0


def test_the_ledger_holds_every_prompt_anchor_and_candidate(finished: Tiny) -> None:
    asked = sum(SIZES.values())
    assert dict(finished.rows("SELECT split, count(*) FROM prompts GROUP BY split")) == SIZES
    assert finished.value("SELECT count(*) FROM anchors WHERE status = 'ok'") == asked
    drawn = finished.rows("SELECT round, count(DISTINCT prompt_key), count(*) FROM candidates GROUP BY round")
    asked_of = {0: SIZES["dev"], 1: SIZES["train"], 2: SIZES["train"]}  # 0: for the paper's claims
    assert drawn == [(number, prompts, 2 * prompts) for number, prompts in asked_of.items()]
    per_scorer = finished.rows(
        "SELECT scorer, round, count(*) FROM scores JOIN candidates ON id = candidate_id GROUP BY 1, 2 ORDER BY 1, 2"
    )
    rounds_of = {"likelihood": (0, 1, 2), "posterior": (1, 2), "token-f1": (0, 1, 2)}
    assert per_scorer == [(s, r, 2 * asked_of[r]) for s, rounds in rounds_of.items() for r in rounds]
    assert finished.value("SELECT count(*) FROM groups") == 2 * SIZES["train"]
    assert {s for (s,) in finished.rows("SELECT name FROM stages WHERE finished IS NOT NULL")} == {
        "sft", "rank", "dev/sft", "round-1/prior", "round-1", "check/round-1", "dev/round-1", "round-2/prior",
        "gates/round-2", "round-2", "check/round-2", "dev/round-2", "eval", "export/hf", "export/adapter",
    }  # fmt: skip


def test_the_ledger_holds_the_anchors_tokens_and_every_answer_s_score(finished: Tiny) -> None:
    assert finished.value("SELECT count(*) FROM anchors WHERE tokens IS NOT NULL") == sum(SIZES.values())
    stop = json.loads((STUDENT / "generation_config.json").read_text())["eos_token_id"]
    ends = finished.rows("SELECT DISTINCT json_extract(tokens, '$[#-1]') FROM anchors WHERE tokens IS NOT NULL")
    assert ends == [(stop,)]
    assert finished.value("SELECT count(*) FROM eval_answers WHERE score IS NULL") == 0
    figures = json.loads((finished.run / "results.json").read_text())["figures"]
    sft = next(f for f in figures if f["system"] == "SFT" and f["temperature"] == 1.0)
    mean = finished.value(
        "SELECT avg(score) FROM eval_answers WHERE system = 'sft' AND split = 'test' AND temperature = 1.0"
    )
    assert mean == pytest.approx(sft["measures"]["json"]["mean"])


def test_log_probs_of_candidates_are_those_of_the_policy_that_drew_them(finished: Tiny) -> None:
    """Recomputed by transformers and peft from the adapter on disk, without any code of ours."""
    model, rows = peft_model(finished.run / "adapters" / "round-1"), candidates(finished, round=2)
    assert rows
    for prompt, tokens, logprobs in rows:
        np.testing.assert_allclose(next_logprobs(model, prompt, tokens), logprobs, atol=1e-4)


def test_candidates_are_not_all_alike_and_rounds_differ(finished: Tiny) -> None:
    distinct = finished.rows(
        "SELECT round, count(DISTINCT tokens) FROM candidates WHERE purpose = 'round' GROUP BY round"
    )
    assert all(count > SIZES["train"] for _, count in distinct)
    assert finished.bytes_of("adapters/round-1/*.safetensors") != finished.bytes_of("adapters/round-2/*.safetensors")


def test_the_recipe_of_a_run_gives_the_same_run(copied: Tiny, call: Callable[..., Ended]) -> None:
    """`recipe.yaml` holds every default, so that the run can go on from it alone."""
    ended = call("run", str(copied.run / "recipe.yaml"), "--runs", str(copied.runs))
    assert ended.code == 0, ended.err
    assert [p.name for p in copied.runs.iterdir()] == ["tiny"]


def test_the_answer_on_the_screen_says_where_things_lie(copied: Tiny, call: Callable[..., Ended]) -> None:
    ended = call(*copied.arguments())
    for path in ("results.json", "report.html", "export/hf", "export/adapter", "ledger.sqlite"):
        assert str(copied.run / path) in ended.out
    assert f"pudistill eval {copied.run} --show 3" in ended.out


@pytest.fixture
def sockets() -> Iterator[list[str]]:
    """What is done with sockets from now on, seen below every library."""
    seen: list[str] = []
    watching = True

    def hook(event: str, _: tuple[object, ...]) -> None:
        if watching and event.startswith("socket."):
            seen.append(event)

    sys.addaudithook(hook)  # there is no way to take it out again
    yield seen
    watching = False


def test_a_run_with_a_local_student_and_a_file_of_answers_opens_no_socket(
    tmp_path: Path, sockets: list[str], call: Callable[..., Ended]
) -> None:
    """And none with --offline, which only forbids more."""
    tiny = Tiny.make(tmp_path, prefer={"rounds": 1})
    ended = call(*tiny.arguments())
    assert ended.code == 0, ended.err
    assert sockets == []


def test_the_watch_sees_a_socket(sockets: list[str]) -> None:
    import socket

    socket.socket().close()
    assert sockets == ["socket.__new__"]


def peft_model(adapter: Path) -> Any:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    base = AutoModelForCausalLM.from_pretrained(STUDENT, dtype="float32", local_files_only=True)
    return PeftModel.from_pretrained(base, str(adapter)).eval()


def candidates(tiny: Tiny, round: int) -> list[tuple[list[int], list[int], list[float]]]:
    """(prompt's ids by transformers' own chat template, answer's ids, its log-probs) of a round's first groups."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(STUDENT, local_files_only=True)
    rows = tiny.rows(
        "SELECT messages, tokens, logprobs FROM candidates JOIN prompts ON prompt_key = key "
        f"WHERE round = {round} LIMIT 8"
    )
    return [
        (
            tokenizer.apply_chat_template(json.loads(messages), add_generation_prompt=True)["input_ids"],
            json.loads(tokens),
            json.loads(logprobs),
        )
        for messages, tokens, logprobs in rows
    ]


def next_logprobs(model: Any, prompt: list[int], answer: list[int]) -> np.ndarray:
    """(T,) log-probs of an answer's tokens, in one plain forward pass."""
    import torch

    with torch.inference_mode():
        logits = model(torch.tensor([prompt + answer])).logits[0, len(prompt) - 1 : -1]
    return logits.log_softmax(-1)[range(len(answer)), answer].numpy()
