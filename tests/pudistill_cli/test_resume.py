"""A run that was stopped at any point goes on and ends with the bytes of one that was not."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import signal
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import yaml

from pudistill_cli.run import plan
from pudistill_cli.run.opening import reopen
from pudistill_cli.terminal.console import Console
from tests.pudistill_cli.teacher.server import Request, Response, Server, says
from tests.tiny import SIZES, STUDENT, Ended, Tiny, process

RESULT = (
    "adapters/*/*",
    "state/*/*",
    "metrics.jsonl",
    "results.json",
    "export/*/*.safetensors",
    "export/*/*config.json",
)
DRAWN = "SELECT round, prompt_key, k, tokens, text, finish FROM candidates ORDER BY round, prompt_key, k"


class Killed(BaseException):
    """Nothing in the program knows it, so nothing can catch it by name."""


def owner_of(place: str) -> tuple[Any, str]:
    """The module or class of `module:Class.name`, and the name in it."""
    module, _, name = place.partition(":")
    *owners, attribute = name.split(".")
    owner: Any = import_module(module)
    for part in owners:
        owner = getattr(owner, part)
    return owner, attribute


def bomb(patch: pytest.MonkeyPatch, place: str, nth: int, *first: Any, after: bool = False) -> Killed:
    """Raise what is returned at the `nth` call of `module:Class.method`; of those whose first argument is `first`."""
    owner, attribute = owner_of(place)
    original, killed = getattr(owner, attribute), Killed(f"{place}, call {nth}")
    place_of_first = int(isinstance(owner, type))
    calls = 0

    def wrapper(*args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        counts = not first or args[place_of_first : place_of_first + 1] == first
        calls += counts
        if counts and calls == nth and not after:
            raise killed
        result = original(*args, **kwargs)
        if counts and calls == nth:
            raise killed
        return result

    patch.setattr(owner, attribute, wrapper)
    return killed


LEDGER = "pudistill_cli.run.ledger:Ledger"
LEARNER = "pudistill_torch.learner:TorchLearner"
# 28 prompts are asked; SFT has 2 steps, then each round 2; the gates draw 4 groups, round 1 the other 12, round 2 16.
# Scores are kept by scorer: one's of the gates' groups, two's of each round's and the claims', and the posteriors of 16
# groups one by one, also of round 1 where a run that was stopped in round 2 goes on.
POINTS: dict[str, Callable[[pytest.MonkeyPatch], Killed]] = {
    "teacher": lambda p: bomb(p, f"{LEDGER}.add_anchor", 5, after=True),
    "SFT": lambda p: bomb(p, f"{LEARNER}.step", 2),
    "SFT's adapter written, its state not": lambda p: bomb(p, f"{LEARNER}.save", 1),
    "SFT saved, not recorded": lambda p: bomb(p, f"{LEDGER}.finish_stage", 1, "sft"),
    "gates": lambda p: bomb(p, "pudistill_cli.stages.gating:examine", 1, after=True),
    "dev": lambda p: bomb(p, f"{LEDGER}.add_eval_answers", 3, after=True),
    "sampling": lambda p: bomb(p, f"{LEDGER}.add_group", 9, after=True),
    "scoring": lambda p: bomb(p, f"{LEDGER}.add_all_scores", 2, after=True),
    "preferences": lambda p: bomb(p, f"{LEDGER}.add_targets", 5, after=True),
    "update": lambda p: bomb(p, f"{LEARNER}.step", 4),
    "round 1 saved, not recorded": lambda p: bomb(p, f"{LEDGER}.finish_stage", 1, "round-1"),
    "between rounds": lambda p: bomb(p, f"{LEDGER}.finish_stage", 1, "dev/round-1", after=True),
    "sampling, round 2": lambda p: bomb(p, f"{LEDGER}.add_group", 20, after=True),
    "update, round 2": lambda p: bomb(p, f"{LEARNER}.step", 6),
    "round 2 saved, not recorded": lambda p: bomb(p, f"{LEDGER}.finish_stage", 1, "round-2"),
    "evaluation": lambda p: bomb(p, f"{LEDGER}.add_eval_answers", 21, after=True),
    "claims": lambda p: bomb(p, f"{LEDGER}.add_all_scores", 54, after=True),
    "results written, not recorded": lambda p: bomb(p, f"{LEDGER}.finish_stage", 1, "eval"),
    "export": lambda p: bomb(p, "pudistill_cli.stages.exporting:compare", 1),
    "between exports": lambda p: bomb(p, f"{LEDGER}.finish_stage", 1, "export/hf", after=True),
}


# Every point once, in few runs. Calls are counted across the stops, and what is done again counts again: after a stop
# that has steps repeated, no run is stopped by the number of a step; after one in an update, by that of a score.
RUNS = (
    ("teacher", "preferences", "update, round 2"),
    ("SFT", "dev", "sampling, round 2", "claims", "results written, not recorded"),
    ("SFT's adapter written, its state not", "sampling", "round 1 saved, not recorded", "export"),
    ("SFT saved, not recorded", "scoring", "between rounds", "evaluation", "between exports"),
    ("gates", "update", "round 2 saved, not recorded"),
)


def test_every_point_is_stopped_at() -> None:
    assert sorted(point for points in RUNS for point in points) == sorted(POINTS)


@pytest.mark.parametrize("points", RUNS, ids=", ".join)
def test_a_stopped_run_ends_with_the_same_bytes(
    points: tuple[str, ...],
    finished: Tiny,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    call: Callable[..., Ended],
) -> None:
    """Stopped and continued at each point in turn; what is there at a stop is what the whole run has."""
    tiny = Tiny.make(tmp_path)
    with monkeypatch.context() as patch:
        for killed in [POINTS[point](patch) for point in points]:
            with pytest.raises(Killed) as caught:
                call(*tiny.arguments())
            assert caught.value is killed
            assert set(tiny.rows(DRAWN)) <= set(finished.rows(DRAWN))
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


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="needs signals")
def test_a_run_that_is_killed_again_and_again_ends_with_the_same_bytes(
    finished: Tiny, tmp_path: Path, call: Callable[..., Ended]
) -> None:
    """SIGKILL runs no `finally`: half-written folders and an open ledger are left."""
    tiny = Tiny.make(tmp_path)
    places = (
        (f"{LEDGER}.add_group", 9),
        ("pudistill_cli.backend_api.training_state:write", 1),  # the adapter of round 1 is written, its state half
        ("pudistill_cli.stages.exporting:compare", 1),  # the merged weights are written
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
    found = re.search(r"[Gg]o on with: pudistill (.*)", ended.err)
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
    ("place", "number"),
    [
        ("pudistill_cli.run.ledger:Ledger.add_anchor", "SIGTERM"),
        (f"{LEARNER}.step", "SIGHUP"),
        ("pudistill_cli.stages.exporting:compare", "SIGINT"),
    ],
    ids=["teacher", "SFT", "export"],
)
def test_a_signal_ends_every_stage_cleanly(
    place: str, number: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: Callable[..., Ended]
) -> None:
    tiny = Tiny.make(tmp_path, prefer={"rounds": 0})
    owner, attribute = owner_of(place)
    with monkeypatch.context() as patch:
        patch.setattr(owner, attribute, lambda *_, **__: signal.raise_signal(getattr(signal, number)))
        ended = call(*tiny.arguments())
    assert ended.code == 128 + getattr(signal, number)
    assert call(*next_command(ended)).code == 0


@pytest.mark.skipif(os.name == "nt", reason="needs signals")
@pytest.mark.parametrize(
    ("command", "place", "kept"),
    [
        (["anchors", "{recipe}"], "pudistill_cli.teacher.asking:ask_all", "the answers so far are kept"),
        (["eval", "{run}", "--set", "eval.temperatures=[0.9]"], f"{LEDGER}.add_eval_answers", "the run is as it was"),
        (["export", "{run}", "--format", "hf"], "pudistill_cli.stages.exporting:compare", "are as they were"),
        (["judge", str(STUDENT), "{gold}"], "pudistill_cli.judging.judge_file:evaluate_scorer", "there are none yet"),
    ],
    ids=["anchors", "eval", "export", "judge"],
)
def test_ctrl_c_ends_the_other_commands_with_a_word_and_they_can_be_typed_again(
    command: list[str],
    place: str,
    kept: str,
    copied: Tiny,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    call: Callable[..., Ended],
) -> None:
    gold = tmp_path / "gold.jsonl"
    gold.write_text('{"prompt": "add lunch", "anchor": "{}", "chosen": "{}", "rejected": "no"}\n')
    known = {"{recipe}": str(copied.recipe), "{run}": str(copied.run), "{gold}": str(gold)}
    arguments = [known.get(word, word) for word in command]
    monkeypatch.chdir(tmp_path)
    before = copied.bytes_of("results.json", "export/*/*")
    with monkeypatch.context() as patch:
        owner, attribute = owner_of(place)
        patch.setattr(owner, attribute, lambda *_, **__: signal.raise_signal(signal.SIGINT))
        ended = call(*arguments)
    assert ended.code == 130
    assert "Stopped; " in ended.flat
    assert kept in ended.flat
    assert copied.bytes_of("results.json", "export/*/*") == before
    assert call(*arguments).code == 0


def test_a_changed_recipe_is_refused_with_what_differs(copied: Tiny, call: Callable[..., Ended]) -> None:
    before = copied.bytes_of("**/*.safetensors", "results.json", "recipe.yaml", "state/run.json")
    ended = call(*copied.arguments("--set", "sft.lr=1.0e-3", "--set", "prefer.k=3"))
    assert ended.code == 7
    assert "sft.lr: 0.003 -> 0.001" in ended.flat
    assert "prefer.k: 2 -> 3" in ended.flat
    assert "--name tiny-2" in ended.flat
    assert copied.bytes_of("**/*.safetensors", "results.json", "recipe.yaml", "state/run.json") == before


def test_another_name_starts_another_run(copied: Tiny, call: Callable[..., Ended]) -> None:
    changed = call(*copied.arguments("--set", "prefer.rounds=0", "--name", "tiny-2", "--until", "sft"))
    assert changed.code == 0, changed.err
    assert sorted(p.name for p in copied.runs.iterdir()) == ["tiny", "tiny-2"]
    assert copied.value("SELECT count(*) FROM stages WHERE name = 'export/hf' AND finished IS NOT NULL") == 1


def test_changed_prompts_are_another_run(tmp_path: Path, call: Callable[..., Ended]) -> None:
    tiny = Tiny.make(tmp_path)
    assert call(*tiny.arguments("--until", "sft")).code == 0
    train = tiny.folder / "train.jsonl"
    train.write_text("".join(train.read_text().splitlines(keepends=True)[1:]))
    ended = call(*tiny.arguments())
    assert ended.code == 7
    assert re.search(r"prompts\.fingerprint: \w+ -> \w+", ended.flat)


def test_a_moved_folder_is_the_same_run(tmp_path: Path, call: Callable[..., Ended]) -> None:
    """Student and prompts are known by their content, not by where they lie."""
    shutil.copytree(STUDENT, tmp_path / "here" / "student")
    tiny = Tiny.make(tmp_path / "here", student={"model": "student"})
    assert call(*tiny.arguments("--until", "sft")).code == 0
    tiny.folder.rename(tmp_path / "there")
    moved = replace(tiny, folder=tmp_path / "there", runs=tmp_path / "there" / "runs")
    (moved.folder / "anchors.jsonl").rename(tmp_path / "anchors.jsonl")  # every answer is in the ledger
    before = moved.bytes_of("adapters/sft/*")
    ended = call(*moved.arguments("--until", "sft", "--set", f"teacher.path={tmp_path / 'here' / 'anchors.jsonl'}"))
    assert ended.code == 0, ended.err
    assert moved.bytes_of("adapters/sft/*") == before


def test_changed_weights_are_another_run(tmp_path: Path, call: Callable[..., Ended]) -> None:
    student = tmp_path / "student"
    shutil.copytree(STUDENT, student)
    tiny = Tiny.make(tmp_path, student={"model": "student"})
    assert call(*tiny.arguments("--until", "sft")).code == 0
    weights = student / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    ended = call(*tiny.arguments())
    assert ended.code == 7
    assert re.search(r"student\.fingerprint: \w+ -> \w+", ended.flat)


def test_evaluation_and_export_are_done_again_with_other_settings(
    copied: Tiny, monkeypatch: pytest.MonkeyPatch, call: Callable[..., Ended]
) -> None:
    trained: list[object] = []
    learner = import_module("pudistill_torch.learner").TorchLearner
    monkeypatch.setattr(learner, "step", lambda *arguments: trained.append(arguments))
    weights = copied.bytes_of("adapters/*/*")
    ended = call(*copied.arguments("--set", "eval.metric=chrf", "--set", "export.dtype=bfloat16"))
    assert ended.code == 0, ended.err
    assert trained == []
    assert copied.bytes_of("adapters/*/*") == weights
    assert json.loads((copied.run / "results.json").read_text())["measure"] == "chrf"
    assert json.loads((copied.run / "export" / "hf" / "config.json").read_text())["dtype"] == "bfloat16"
    assert yaml.safe_load((copied.run / "recipe.yaml").read_text())["eval"]["metric"] == "chrf"


def test_a_finished_run_is_done_at_once(
    copied: Tiny, monkeypatch: pytest.MonkeyPatch, call: Callable[..., Ended]
) -> None:
    used: list[str] = []
    engine = import_module("pudistill_torch.engine").TorchEngine
    learner = import_module("pudistill_torch.learner").TorchLearner
    monkeypatch.setattr(engine, "sample", lambda *_: used.append("sample") or iter(()))
    monkeypatch.setattr(learner, "step", lambda *_: used.append("step"))
    before = copied.bytes_of("adapters/*/*", "results.json", "export/*/*")
    ended = call(*copied.arguments())
    assert ended.code == 0, ended.err
    assert used == []
    assert copied.bytes_of("adapters/*/*", "results.json", "export/*/*") == before


@pytest.mark.skipif(os.name == "nt", reason="needs signals")
def test_ctrl_c_while_the_teacher_is_asked_keeps_its_answers(tmp_path: Path, call: Callable[..., Ended]) -> None:
    def behaviour(request: Request) -> Response:
        if request.number == 4:
            os.kill(os.getpid(), signal.SIGINT)
        return says('{"do":"book"}')

    with Server(behaviour).running() as server:
        teacher = {"kind": "openai", "model": "m", "base_url": server.url, "concurrency": 1}
        tiny = Tiny.make(tmp_path, teacher=teacher)
        ended = call(*tiny.arguments("--until", "anchors"))
        assert ended.code == 130
        kept = tiny.value("SELECT count(*) FROM anchors")
        assert kept >= 3
        asked = len(server.requests)
        assert call(*next_command(ended), "--until", "anchors").code == 0
        assert len(server.requests) - asked == sum(SIZES.values()) - kept


@pytest.mark.skipif(os.name == "nt", reason="needs signals")
@pytest.mark.parametrize("command", ["eval", "export"])
def test_ctrl_c_ends_the_other_commands_with_130_too(
    command: str, copied: Tiny, monkeypatch: pytest.MonkeyPatch, call: Callable[..., Ended]
) -> None:
    engine = import_module("pudistill_torch.engine").TorchEngine
    for name in ("distributions", "logprobs"):
        monkeypatch.setattr(engine, name, lambda *_: signal.raise_signal(signal.SIGINT))
    assert call(command, "tiny", "--runs", str(copied.runs)).code == 130


def test_a_pass_that_was_made_smaller_stays_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: Callable[..., Ended]
) -> None:
    """Sums of a batch depend on its passes: memory that is free later must not change them."""
    real = plan.choose
    for free, stage in ((640, "sft"), (None, "prefer")):
        monkeypatch.setattr(plan, "choose", lambda *given, free=free: replace(real(*given), token_budget=free))
        tiny = Tiny.make(tmp_path, prefer={"rounds": 1})
        assert call(*tiny.arguments("--until", stage)).code == 0
        record = json.loads((tiny.run / "state" / "run.json").read_text())
        assert record["resolved"]["token_budget"] == "640"
    assert call(*tiny.arguments()).code == 0
    with closing(reopen("tiny", tiny.runs, Console(), [])) as job:
        assert (job.spec.token_budget, job.learner_spec.token_budget) == (640, 640)


def test_a_recipes_own_pass_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: Callable[..., Ended]
) -> None:
    real = plan.choose
    monkeypatch.setattr(plan, "choose", lambda *given: replace(real(*given), token_budget=640))
    tiny = Tiny.make(tmp_path, student={"token_budget": 2048})
    assert call(*tiny.arguments("--until", "anchors")).code == 0
    assert json.loads((tiny.run / "state" / "run.json").read_text())["resolved"]["token_budget"] == "2048"
