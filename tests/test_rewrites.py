"""SFT with the student's own rewrites of the anchors."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from tiny import SIZES, Ended, Tiny

from pudistill_cli.console import Console
from pudistill_cli.contract import PromptTokens, Sampling
from pudistill_cli.prepare import reopen
from pudistill_cli.stages import sft
from pudistill_cli.stages.anchors import ask_teacher
from pudistill_cli.stages.rewriting import REWRITES, with_rewrites

Call = Callable[..., Ended]
REWRITING = {"epochs": 2, "rewrites": True}
ROOM = {"max_new_tokens": 60}
"""For every rewrite to come to an end."""
IDS = "SELECT id FROM candidates WHERE round = -1 ORDER BY id"
WRITTEN = "SELECT prompt_key, tokens, finish FROM candidates WHERE round = -1 ORDER BY prompt_key, k"


def run(folder: Path, call: Call, until: str = "sft", **changes: Any) -> Tiny:
    tiny = Tiny.make(folder, **changes)
    ended = call(*tiny.arguments("--until", until))
    assert ended.code == 0, ended.err
    return tiny


def written(tiny: Tiny) -> dict[str, list[tuple[tuple[int, ...], str]]]:
    found: dict[str, list[tuple[tuple[int, ...], str]]] = {}
    for key, tokens, finish in tiny.rows(WRITTEN):
        found.setdefault(key, []).append((tuple(json.loads(tokens)), finish))
    return found


def test_every_epoch_has_every_anchor_and_another_rewrite_of_those_that_came_to_an_end(
    tmp_path: Path, call: Call
) -> None:
    tiny = run(tmp_path, call, "eval", sft=REWRITING, prefer={"max_new_tokens": 18, "rounds": 0})
    drawn = written(tiny)
    assert (len(drawn), {len(own) for own in drawn.values()}) == (SIZES["train"], {2})
    whole = {key: [tokens for tokens, finish in own if finish == "stop"] for key, own in drawn.items()}
    assert 0 < sum(len(own) for own in whole.values()) < 2 * SIZES["train"]  # some are cut off at 18 tokens, not all
    with closing(reopen(tiny.run.name, tiny.runs, Console(as_json=True), [])) as job:
        anchors = ask_teacher(job).for_sft
        for epoch, rows in enumerate(with_rewrites(job, anchors)):
            expected = [(a.prompt.key, own[epoch % len(own)]) for a in anchors if (own := whole[a.prompt.key])]
            assert rows[: len(anchors)] == anchors
            assert [(a.prompt.key, a.answer_tokens) for a in rows[len(anchors) :]] == expected


def test_the_base_writes_them_with_the_anchor_in_view(tmp_path: Path, call: Call) -> None:
    tiny = run(tmp_path, call, "eval", sft=REWRITING, prefer={"rounds": 0})
    key = min(written(tiny))
    with closing(reopen(tiny.run.name, tiny.runs, Console(as_json=True), [])) as job:
        (asked,) = (a for a in ask_teacher(job).for_sft if a.prompt.key == key)
        question = f"{asked.prompt.messages[-1].content}\nreference: {asked.answer}"
        (message,) = asked.prompt.messages
        view = job.encode_prompt((type(message)(message.role, question),))
        sampling = Sampling(job.max_new_tokens, 0.3, seed=job.recipe.seed, round=REWRITES)
        ((_, candidates),) = job.engine.sample([PromptTokens(key, view)], 2, sampling, None)
    assert [(c.tokens, c.finish) for c in candidates] == written(tiny)[key]


def test_a_run_that_was_stopped_after_them_ends_with_the_same_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: Call
) -> None:
    whole = run(tmp_path / "whole", call, sft=REWRITING)
    stopped = Tiny.make(tmp_path / "stopped", sft=REWRITING)
    with monkeypatch.context() as patch:
        patch.setattr(sft, "train_step", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        assert call(*stopped.arguments("--until", "sft")).code != 0
    before = stopped.rows(IDS)
    assert call(*stopped.arguments("--until", "sft")).code == 0
    assert len(before) == 2 * SIZES["train"]
    assert stopped.rows(IDS) == before  # not drawn again
    assert stopped.bytes_of("adapters/sft/*.safetensors") == whole.bytes_of("adapters/sft/*.safetensors")


def test_they_are_off_unless_asked_for_and_change_what_is_learned(tmp_path: Path, call: Call) -> None:
    off = run(tmp_path / "off", call, sft={"epochs": 2}, prefer=ROOM)
    on = run(tmp_path / "on", call, sft=REWRITING, prefer=ROOM)
    assert off.rows(WRITTEN) == []
    steps = "SELECT json_extract(detail, '$.steps'), json_extract(detail, '$.rows') FROM stages WHERE name = 'sft'"
    assert (off.rows(steps), on.rows(steps)) == ([(4, 16)], [(8, 32)])
    assert off.bytes_of("adapters/sft/*.safetensors") != on.bytes_of("adapters/sft/*.safetensors")
    planned = call(*on.arguments("--dry-run", "--set", "name=planned"))
    assert "2 epochs of 4 steps" in " ".join(planned.out.split())
