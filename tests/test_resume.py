"""A run that was stopped at any point goes on and ends with the bytes of one that was not."""

from __future__ import annotations

import os
import re
import shlex
import signal
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from tiny import SIZES, Ended, Tiny, process

RESULT = ("adapters/*/*", "results.json", "export/*/*.safetensors", "export/*/*config.json")
DRAWN = "SELECT round, prompt_key, k, tokens, text, finish FROM candidates ORDER BY round, prompt_key, k"


class Killed(BaseException):
    """Nothing in the program knows it, so nothing can catch it by name."""


def bomb(patch: pytest.MonkeyPatch, place: str, nth: int, *first: Any, after: bool = False) -> None:
    """Raise Killed at the `nth` call of `module:Class.method`; of those whose first argument is `first`, if given."""
    module, _, name = place.partition(":")
    *owners, attribute = name.split(".")
    owner: Any = import_module(module)
    for part in owners:
        owner = getattr(owner, part)
    original = getattr(owner, attribute)
    calls = 0

    def wrapper(*args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        counts = not first or args[len(owners) : len(owners) + 1] == first
        calls += counts
        if counts and calls == nth and not after:
            raise Killed
        result = original(*args, **kwargs)
        if counts and calls == nth:
            raise Killed
        return result

    patch.setattr(owner, attribute, wrapper)


LEDGER = "pudistill_cli.ledger:Ledger"
LEARNER = "pudistill_torch.learner:TorchLearner"
# 28 prompts are asked; SFT has 2 steps, then each round 2; the gates draw 4 groups, round 1 the other 12, round 2 16.
POINTS: dict[str, Callable[[pytest.MonkeyPatch], None]] = {
    "teacher": lambda p: bomb(p, f"{LEDGER}.add_anchor", 5, after=True),
    "SFT": lambda p: bomb(p, f"{LEARNER}.step", 2),
    "SFT's adapter written, its state not": lambda p: bomb(p, f"{LEARNER}.save", 1),
    "SFT saved, not recorded": lambda p: bomb(p, f"{LEDGER}.finish_stage", 1, "sft"),
    "gates": lambda p: bomb(p, "pudistill_cli.stages.trust:examine", 1, after=True),
    "dev": lambda p: bomb(p, f"{LEDGER}.add_eval_answers", 3, after=True),
    "sampling": lambda p: bomb(p, f"{LEDGER}.add_group", 9, after=True),
    "scoring": lambda p: bomb(p, f"{LEDGER}.add_scores", 7, after=True),
    "preferences": lambda p: bomb(p, f"{LEDGER}.add_targets", 5, after=True),
    "update": lambda p: bomb(p, f"{LEARNER}.step", 4),
    "round 1 saved, not recorded": lambda p: bomb(p, f"{LEDGER}.finish_stage", 1, "round-1"),
    "between rounds": lambda p: bomb(p, f"{LEDGER}.finish_stage", 1, "dev/round-1", after=True),
    "sampling, round 2": lambda p: bomb(p, f"{LEDGER}.add_group", 20, after=True),
    "update, round 2": lambda p: bomb(p, f"{LEARNER}.step", 6),
    "round 2 saved, not recorded": lambda p: bomb(p, f"{LEDGER}.finish_stage", 1, "round-2"),
    "evaluation": lambda p: bomb(p, f"{LEDGER}.add_eval_answers", 21, after=True),
    "results written, not recorded": lambda p: bomb(p, f"{LEDGER}.finish_stage", 1, "eval"),
    "export": lambda p: bomb(p, "pudistill_cli.stages.exporting:_verify", 1),
    "between exports": lambda p: bomb(p, f"{LEDGER}.finish_stage", 1, "export/hf", after=True),
}


@pytest.mark.parametrize("point", POINTS)
def test_a_stopped_run_ends_with_the_same_bytes(
    point: str, finished: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: Callable[..., Ended]
) -> None:
    tiny = Tiny.make(tmp_path)
    with monkeypatch.context() as patch:
        POINTS[point](patch)
        with pytest.raises(Killed):
            call(*tiny.arguments())
    ended = call(*tiny.arguments())
    assert ended.code == 0, ended.err
    assert tiny.rows(DRAWN) == finished.rows(DRAWN)
    assert tiny.bytes_of(*RESULT) == finished.bytes_of(*RESULT)
    assert not [p for p in tiny.run.rglob("*") if p.name.endswith((".tmp", ".partial", ".old"))]
    assert [p.name for p in (tiny.run / "state").iterdir() if p.is_dir()] == ["round-2"]


def test_a_half_done_round_is_not_sampled_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: Callable[..., Ended]
) -> None:
    tiny = Tiny.make(tmp_path, prefer={"rounds": 1})
    with monkeypatch.context() as patch:
        POINTS["sampling"](patch)
        with pytest.raises(Killed):
            call(*tiny.arguments("--until", "prefer"))
    before = tiny.rows(DRAWN)
    assert len(before) == 9 * 2  # groups of two

    asked: list[int] = []
    engine = import_module("pudistill_torch.engine").TorchEngine
    sample = engine.sample

    def counted(self: Any, prompts: Any, k: int, sampling: Any, adapter: Any) -> Any:
        if sampling.round == 1:
            asked.append(len(prompts))
        return sample(self, prompts, k, sampling, adapter)

    monkeypatch.setattr(engine, "sample", counted)
    call(*tiny.arguments("--until", "prefer"))
    assert asked == [SIZES["train"] - 9]
    assert set(before) < set(tiny.rows(DRAWN))


def test_an_answer_is_asked_for_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: Callable[..., Ended]
) -> None:
    tiny = Tiny.make(tmp_path)
    with monkeypatch.context() as patch:
        POINTS["teacher"](patch)
        with pytest.raises(Killed):
            call(*tiny.arguments("--until", "anchors"))
    asked: list[str] = []
    teacher = import_module("pudistill_cli.teacher.file").AnswerFile
    ask = teacher.ask
    monkeypatch.setattr(teacher, "ask", lambda self, qs: (asked.extend(q.key for q in qs), ask(self, qs))[1])
    call(*tiny.arguments("--until", "anchors"))
    assert len(asked) == len(set(asked)) == sum(SIZES.values()) - 5
    assert tiny.value("SELECT count(*) FROM anchors WHERE status = 'ok'") == sum(SIZES.values())


HOOK = """
import os, signal
from importlib import import_module

def at(place, nth, number):
    module, _, name = place.partition(":")
    *owners, attribute = name.split(".")
    owner = import_module(module)
    for part in owners:
        owner = getattr(owner, part)
    original, calls = getattr(owner, attribute), [0]
    def wrapper(*args, **kwargs):
        calls[0] += 1
        if calls[0] == nth:
            os.kill(os.getpid(), number)
        return original(*args, **kwargs)
    setattr(owner, attribute, wrapper)
"""
"""`at(place, nth, number)` sends this process a signal before the nth call."""


@pytest.mark.skipif(os.name == "nt", reason="needs signals")
def test_a_run_that_is_killed_again_and_again_ends_with_the_same_bytes(
    finished: Tiny, tmp_path: Path, call: Callable[..., Ended]
) -> None:
    """SIGKILL runs no `finally`: half-written folders and an open transaction are left."""
    tiny = Tiny.make(tmp_path)
    places = (
        (f"{LEDGER}.add_group", 9),
        ("pudistill_torch.training_state:write", 1),  # the adapter of round 1 is written, its state half
        ("pudistill_cli.stages.exporting:_verify", 1),  # the merged weights are written
    )
    for place, nth in places:
        hook = f"{HOOK}\nat({place!r}, {nth}, signal.SIGKILL)"
        killed = process(*tiny.arguments(), folder=tmp_path, hook=hook)
        _, err = killed.communicate()
        assert killed.returncode == -signal.SIGKILL, err
    ended = call(*tiny.arguments())
    assert ended.code == 0, ended.err
    assert tiny.rows(DRAWN) == finished.rows(DRAWN)
    assert tiny.bytes_of(*RESULT) == finished.bytes_of(*RESULT)
    assert [p.name for p in (tiny.run / "export").iterdir() if p.name not in ("hf", "adapter")] == []


def next_command(ended: Ended) -> list[str]:
    """The command that the message says to go on with, without `pudistill`."""
    found = re.search(r"[Gg]o on with: pudistill (.*)", ended.flat)
    assert found, ended.err
    return shlex.split(found[1])


@pytest.mark.skipif(os.name == "nt", reason="needs signals")
def test_ctrl_c_says_how_to_go_on_and_that_works(
    finished: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: Callable[..., Ended]
) -> None:
    folder = tmp_path / "a folder"
    tiny = Tiny.make(folder)
    monkeypatch.chdir(folder)
    hook = f"{HOOK}\nat({f'{LEDGER}.add_group'!r}, 9, signal.SIGINT)"
    stopped = process("run", "tiny.yaml", "--set", "prefer.k=2", folder=folder, hook=hook)
    out, err = stopped.communicate()
    assert stopped.returncode == 130
    assert "Traceback" not in err
    assert len(tiny.rows(DRAWN)) == 8 * 2
    command = next_command(Ended(130, out, err))
    assert command == ["run", "tiny.yaml", "--set", "prefer.k=2", "--name", "tiny"]
    assert call(*command).code == 0
    assert tiny.bytes_of(*RESULT) == finished.bytes_of(*RESULT)


@pytest.mark.skipif(os.name == "nt", reason="needs signals")
@pytest.mark.parametrize(
    "place",
    ["pudistill_cli.ledger:Ledger.add_anchor", f"{LEARNER}.step", "pudistill_cli.stages.exporting:_verify"],
    ids=["teacher", "SFT", "export"],
)
def test_ctrl_c_ends_every_stage_cleanly(
    place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: Callable[..., Ended]
) -> None:
    tiny = Tiny.make(tmp_path, prefer={"rounds": 0})
    module, _, name = place.partition(":")
    *owners, attribute = name.split(".")
    owner: Any = import_module(module)
    for part in owners:
        owner = getattr(owner, part)
    with monkeypatch.context() as patch:
        patch.setattr(owner, attribute, lambda *_, **__: signal.raise_signal(signal.SIGINT))
        ended = call(*tiny.arguments())
    assert ended.code == 130
    assert call(*next_command(ended)).code == 0
