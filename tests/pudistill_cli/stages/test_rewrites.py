"""SFT with the student's own rewrites of the anchors."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pudistill_cli.backend_api.contract import Row
from pudistill_cli.config.sft_defaults import sft_shape
from pudistill_cli.run.context import Job
from pudistill_cli.run.opening import reopen
from pudistill_cli.run.rollouts import REWRITES
from pudistill_cli.stages import rewrites, sft_training
from pudistill_cli.stages.anchors import Anchored, ask_teacher
from pudistill_cli.stages.rewrites import lessons, share_saved
from pudistill_cli.terminal.console import Console
from pudistill_cli.types import PromptTokens, Sampling, Tokens
from tests.tiny import SIZES, Ended, Tiny

Call = Callable[..., Ended]
REWRITING = {"epochs": 2, "rewrites": True}
ROOM = {"max_new_tokens": 60}
"""For every rewrite to come to an end."""
IDS = "SELECT id FROM candidates WHERE purpose = 'rewrite' ORDER BY id"
WRITTEN = "SELECT prompt_key, tokens, finish FROM candidates WHERE purpose = 'rewrite' ORDER BY prompt_key, k"


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


def in_view(job: Job, anchored: Anchored) -> Tokens:
    (message,) = anchored.prompt.messages
    return job.encode_prompt((replace(message, content=f"{message.content}\nreference: {anchored.answer}"),))


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
        view = {a.prompt.key: in_view(job, a) for a in anchors}
        shape = sft_shape(job.recipe.sft, parameters=1, width=1, anchors=len(anchors))
        read = lessons(job, anchors, shape)
        assert read.distinct == 2
        for epoch, rows in enumerate([read.epoch(0, 0), read.epoch(0, 1), read.epoch(0, 2)]):
            assert rows[: len(anchors)] == [Row(a.prompt_tokens, a.answer_tokens, view[a.prompt.key]) for a in anchors]
            assert rows[len(anchors) :] == [
                Row(a.prompt_tokens, own[epoch % 2 % len(own)], view[a.prompt.key])
                for a in anchors
                if (own := whole[a.prompt.key])
            ]


def test_the_base_writes_them_with_the_anchor_in_view(tmp_path: Path, call: Call) -> None:
    tiny = run(tmp_path, call, "eval", sft=REWRITING, prefer={"rounds": 0})
    key = min(written(tiny))
    with closing(reopen(tiny.run.name, tiny.runs, Console(as_json=True), [])) as job:
        (asked,) = (a for a in ask_teacher(job).for_sft if a.prompt.key == key)
        view = in_view(job, asked)
        sampling = Sampling(job.max_new_tokens, 0.3, seed=job.recipe.seed, round=REWRITES.stream)
        ((_, candidates),) = job.engine.sample([PromptTokens(key, view)], 2, sampling, None)
    assert [(c.tokens, c.finish) for c in candidates] == written(tiny)[key]


def test_a_run_that_was_stopped_after_them_ends_with_the_same_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: Call
) -> None:
    whole = run(tmp_path / "whole", call, sft=REWRITING)
    stopped = Tiny.make(tmp_path / "stopped", sft=REWRITING)
    with monkeypatch.context() as patch:
        patch.setattr(sft_training, "train_step", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        assert call(*stopped.arguments("--until", "sft")).code != 0
    before = stopped.rows(IDS)
    assert call(*stopped.arguments("--until", "sft")).code == 0
    assert len(before) == 2 * SIZES["train"]
    assert stopped.rows(IDS) == before  # not drawn again
    assert stopped.bytes_of("adapters/sft/*.safetensors") == whole.bytes_of("adapters/sft/*.safetensors")


def test_what_they_change(tmp_path: Path, call: Call) -> None:
    """No rewrites, rewrites alone, and what else the base might have said at each of their tokens."""
    off = run(tmp_path / "off", call, sft={"epochs": 2}, prefer=ROOM)
    hard = run(tmp_path / "hard", call, sft={**REWRITING, "soft": 0.0}, prefer=ROOM)
    soft = run(tmp_path / "soft", call, sft=REWRITING, prefer=ROOM)
    assert off.rows(WRITTEN) == []
    assert hard.rows(WRITTEN) == soft.rows(WRITTEN) != []
    steps = "SELECT json_extract(detail, '$.steps'), json_extract(detail, '$.rows') FROM stages WHERE name = 'sft'"
    assert [tiny.rows(steps) for tiny in (off, hard, soft)] == [[(4, 16)], [(8, 32)], [(8, 32)]]
    learned = {tuple(tiny.bytes_of("adapters/sft/*.safetensors").values()) for tiny in (off, hard, soft)}
    assert len(learned) == 3


GATE = "SELECT detail FROM stages WHERE name = 'rewrites'"


def test_auto_asks_whether_the_base_looks_at_the_anchor(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: Call
) -> None:
    monkeypatch.setattr(rewrites, "GATE_PROMPTS", 8)
    tiny = Tiny.make(tmp_path, sft={"rewrites": "auto"})
    ended = call(*tiny.arguments("--until", "sft"))
    ((detail,),) = tiny.rows(GATE)
    gate = json.loads(detail)
    assert (gate["prompts"], gate["used"]) == (8, True)
    assert gate["share_saved"] > 0.5
    assert f"tells the base {gate['share_saved']:.0%} of what it could tell" in " ".join(ended.err.split())
    assert len(written(tiny)) == SIZES["train"]


def test_auto_does_without_where_it_looks_too_little(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: Call
) -> None:
    alone = run(tmp_path / "alone", call)
    monkeypatch.setattr(rewrites, "MIN_SAVED", 0.99)
    tiny = Tiny.make(tmp_path / "auto", sft={"rewrites": "auto"})
    ended = call(*tiny.arguments("--until", "sft"))
    ((detail,),) = tiny.rows(GATE)
    assert json.loads(detail)["used"] is False
    assert "no rewrites" in " ".join(ended.err.split())
    assert written(tiny) == {}
    assert tiny.bytes_of("adapters/sft/*.safetensors") == alone.bytes_of("adapters/sft/*.safetensors")


def test_the_gate_is_decided_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: Call) -> None:
    stopped = Tiny.make(tmp_path, sft={"rewrites": "auto"})
    with monkeypatch.context() as patch:
        patch.setattr(sft_training, "train_step", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        assert call(*stopped.arguments("--until", "sft")).code != 0
    before = stopped.rows(GATE)
    ended = call(*stopped.arguments("--until", "sft"))
    assert ended.code == 0
    assert stopped.rows(GATE) == before
    assert "tells the base" not in " ".join(ended.err.split())


def test_settings_of_later_stages_may_change_once_auto_has_decided(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: Call
) -> None:
    """The gate's mark is no finished work; what is written stays with SFT, and is written again where SFT changes."""
    tiny = Tiny.make(tmp_path, sft={"rewrites": "auto"})
    with monkeypatch.context() as patch:
        patch.setattr(sft_training, "train_step", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        assert call(*tiny.arguments("--until", "sft")).code == 130
    drawn = tiny.rows(IDS)
    assert drawn
    ended = call(*tiny.arguments("--until", "sft", "--set", "prefer.k=3"))
    assert ended.code == 0, ended.err
    assert tiny.rows(IDS) == drawn
    again = Tiny.make(tmp_path / "epochs", sft={"rewrites": "auto"})
    with monkeypatch.context() as patch:
        patch.setattr(sft_training, "train_step", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        assert call(*again.arguments("--until", "sft")).code == 130
    ended = call(*again.arguments("--until", "sft", "--set", "sft.epochs=2"))
    assert ended.code == 0, ended.err
    assert len(again.rows(IDS)) == 2 * len(drawn)


@pytest.mark.parametrize("rewrites", [True, False])
def test_what_sft_used_is_fixed_once_it_has_finished(rewrites: bool, tmp_path: Path, call: Call) -> None:
    tiny = run(tmp_path, call, sft={"rewrites": rewrites})
    for change in (
        "train.clip_norm=0.5", "train.weight_decay=0.1", "rank.view='{prompt} {anchor}'", "prefer.max_new_tokens=20",
    ):  # fmt: skip
        ended = call(*tiny.arguments("--set", change))
        assert ended.code == 7
        setting = change.partition("=")[0]
        assert f"its stage 'sft' has finished with other settings (old -> new): {setting}" in ended.flat


@pytest.mark.parametrize(
    ("own", "other", "share"), [([1.0, 2.0], [4.0, 8.0], 0.75), ([3.0], [3.0], 0.0), ([], [], 0.0), ([2.0], [0.0], 0.0)]
)
def test_what_an_anchor_tells(own: list[float], other: list[float], share: float) -> None:
    """1 - 3/12; as dear as beside another's; nothing to compare; nothing to save."""
    assert share_saved(own, other) == pytest.approx(share)


def test_the_plan_names_the_steps_with_and_without(tmp_path: Path, call: Call) -> None:
    tiny = Tiny.make(tmp_path)
    for setting, steps in (("auto", "2 epochs of 2 or 4 steps of 8"), ("true", "of 4 steps"), ("false", "of 2 steps")):
        planned = call(*tiny.arguments("--dry-run", "--set", f"sft.rewrites={setting}", "--set", "sft.epochs=2"))
        assert steps in " ".join(planned.out.split())
