"""A stage that trains goes on from its checkpoint, to the bytes of a run that was not stopped."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pudistill_cli.backend_api import training_state
from pudistill_cli.run import memo
from pudistill_cli.run.ledger import Ledger
from pudistill_cli.run.marks import Mark
from pudistill_cli.run.memo import Memo
from pudistill_cli.stages import checkpoint, dev_check, preference_update, sft_length, sft_training
from pudistill_cli.stages.checkpoint import Checkpoint
from pudistill_cli.stages.dev_check import DevCheck
from tests.tiny import SIZES, Ended, Tiny

Call = Callable[..., Ended]
SETTINGS: dict[str, Any] = {"sft": {"epochs": "auto", "students": 2, "lr": 2.0e-3}, "prefer": {"rounds": 2}}
"""Two students, the first as long as dev has it improve, and two rounds, of which the second goes on with moments."""
TABLES = {
    "stages": "name, detail",
    "metrics": "stage, round, step, name, value, low, high",
    "candidates": "purpose, round, prompt_key, k, tokens, text, finish, logprobs",
    "groups": "*",
    "eval_answers": "*",
}
FILES = ("adapters/*/*", "state/*/*", "metrics.jsonl")


class Killed(BaseException):
    """Nothing in the program knows it, so nothing can catch it by name."""


def shorten(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(dev_check, "FEWEST", SIZES["dev"])
    patch.setattr(sft_length, "PATIENCE", 1)
    patch.setattr(sft_length, "LONGEST", 2)


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    shorten(monkeypatch)


@pytest.fixture
def eager(monkeypatch: pytest.MonkeyPatch) -> None:
    """A checkpoint after every step."""
    monkeypatch.setattr(training_state, "SAVE_EVERY_SECONDS", 0.0)


def tiny_of(folder: Path, backend: str, **changes: Any) -> Tiny:
    for module in {"llamacpp": ("llamacpp", "torch")}.get(backend, (backend,)):
        pytest.importorskip(f"pudistill_{module}.engine", reason=f"needs the {module} backend")
    threads = {"student": {"threads": None}} if backend == "mlx" else {}
    chosen = {"engine": "llamacpp", "learner": "torch"} if backend == "llamacpp" else backend
    return Tiny.make(folder, backend=chosen, **SETTINGS | threads | changes)


def contents(tiny: Tiny) -> tuple[Any, ...]:
    """All that a run leaves but for times."""
    of_tables = {name: sorted(tiny.rows(f"SELECT {columns} FROM {name}")) for name, columns in TABLES.items()}
    return of_tables, tiny.bytes_of(*FILES)


def steps_of(patch: pytest.MonkeyPatch, stop_before: int | None = None) -> list[Any]:
    """The batches of the steps that are taken; none is taken at the call of that number."""
    taken: list[Any] = []
    step = sft_training.train_step

    def counted(job: Any, batch: Any, lr: float) -> Any:
        if len(taken) + 1 == stop_before:
            raise Killed
        taken.append(batch)
        return step(job, batch, lr)

    for module in (sft_training, preference_update):
        patch.setattr(module, "train_step", counted)
    return taken


def until_killed(tiny: Tiny, call: Call) -> None:
    with pytest.raises(Killed):
        call(*tiny.arguments("--until", "prefer"))


def bomb(patch: pytest.MonkeyPatch, owner: Any, name: str, nth: int, *first: Any) -> None:
    """Kill at the `nth` call of a method whose first argument is `first`."""
    original, left = getattr(owner, name), iter(range(nth - 1))

    def wrapper(self: Any, *args: Any, **kwargs: Any) -> Any:
        if args[: len(first)] == first and next(left, None) is None:
            raise Killed
        return original(self, *args, **kwargs)

    patch.setattr(owner, name, wrapper)


@pytest.mark.slow
@pytest.mark.parametrize(("backend", "steps_each"), [("torch", 1), ("mlx", 4), ("llamacpp", 4)])
def test_a_run_that_is_stopped_in_its_steps_takes_each_once_and_ends_with_the_same_bytes(
    backend: str, steps_each: int, tmp_path: Path, call: Call, monkeypatch: pytest.MonkeyPatch, eager: None
) -> None:
    whole, killed = (tiny_of(tmp_path / name, backend) for name in ("whole", "killed"))
    with monkeypatch.context() as patch:
        patch.setattr(training_state, "SAVE_EVERY_SECONDS", 60.0)
        expected = steps_of(patch)
        assert call(*whole.arguments("--until", "prefer")).code == 0
    taken: list[Any] = []
    ended, stops = None, 0
    while ended is None:
        with monkeypatch.context() as patch:
            steps = steps_of(patch, stop_before=steps_each + 1)
            try:
                ended = call(*killed.arguments("--until", "prefer"))
            except Killed:
                stops += 1
                assert steps, "no step was taken"
            taken += steps
    assert ended.code == 0, ended.err
    assert stops >= len(expected) // steps_each - 1
    assert [b.rows if hasattr(b, "rows") else len(b.groups) for b in taken] == [
        b.rows if hasattr(b, "rows") else len(b.groups) for b in expected
    ]
    assert contents(killed) == contents(whole)


@pytest.fixture(scope="module")
def whole(once: Any) -> Tiny:
    """One student, one round, stopped never."""

    def make(folder: Path) -> None:
        with pytest.MonkeyPatch.context() as patch:
            shorten(patch)
            tiny_of(folder, "torch", **ONE).finish("--until", "prefer")

    return Tiny.at(once("checkpoint-whole", make))


ONE: dict[str, Any] = {"sft": {"epochs": "auto", "lr": 2.0e-3}, "prefer": {"rounds": 1}}
# In this order: each goes on from where the one before was killed. SFT has 6 steps, and looks before the first and
# behind the second, the fourth and the last; the round has 2 steps.
KILLS: dict[str, Callable[[pytest.MonkeyPatch], None]] = {
    "a look at dev": lambda p: bomb(p, DevCheck, "_grades", 2),
    "a checkpoint half written": lambda p: bomb(p, Checkpoint, "record", 3),
    "a checkpoint written, not recorded": lambda p: bomb(p, Ledger, "finish_stage", 3, "sft/checkpoint"),
    "a checkpoint begun in the ledger": lambda p: bomb(p, Ledger, "begin_stage", 4, "sft/checkpoint"),
    "a checkpoint recorded, the older one there": lambda p: bomb(p, Checkpoint, "_remove_states", 1),
    "SFT finished, its states there": lambda p: bomb(p, Checkpoint, "forget", 1),
    "the round's first step, not recorded": lambda p: bomb(p, Ledger, "finish_stage", 1, "round-1/checkpoint"),
    "the round's second step, not recorded": lambda p: bomb(p, Ledger, "finish_stage", 2, "round-1/checkpoint"),
    "the round saved, not recorded": lambda p: bomb(p, Ledger, "finish_stage", 1, "round-1"),
}


def test_a_kill_between_saving_and_recording_changes_nothing(
    whole: Tiny, tmp_path: Path, call: Call, monkeypatch: pytest.MonkeyPatch, eager: None
) -> None:
    tiny = tiny_of(tmp_path, "torch", **ONE)
    for name, kill in KILLS.items():
        with monkeypatch.context() as patch:
            kill(patch)
            until_killed(tiny, call)
        assert tiny.rows("SELECT 1 FROM stages"), name
    assert call(*tiny.arguments("--until", "prefer")).code == 0
    assert contents(tiny) == contents(whole)


def test_what_goes_on_says_so_and_takes_no_step_twice(
    tmp_path: Path, call: Call, monkeypatch: pytest.MonkeyPatch, eager: None
) -> None:
    tiny = tiny_of(tmp_path, "torch", **ONE)
    for stop in (4, 3):
        with monkeypatch.context() as patch:
            taken = steps_of(patch, stop_before=stop)
            until_killed(tiny, call)
    assert len(taken) == 2
    ended = call(*tiny.arguments("--until", "prefer"))
    assert "SFT goes on from step 5" in ended.flat
    assert "begins again" not in ended.flat


@pytest.mark.parametrize(
    ("damage", "stage", "steps"),
    [("flipped", "sft", 3), ("torn", "sft", 3), ("missing", "sft", 3), ("torn", "round-1", 1)],
)
def test_a_damaged_checkpoint_is_not_gone_on_from(
    damage: str,
    stage: str,
    steps: int,
    whole: Tiny,
    tmp_path: Path,
    call: Call,
    monkeypatch: pytest.MonkeyPatch,
    eager: None,
) -> None:
    tiny = tiny_of(tmp_path, "torch", **ONE)
    with monkeypatch.context() as patch:
        steps_of(patch, stop_before=steps + 1 if stage == "sft" else 6 + steps + 1)
        until_killed(tiny, call)
    state = tiny.run / "state" / f"{stage}-step-{steps}"
    file = state / "training_state.safetensors"
    data = bytearray(file.read_bytes())
    if damage == "flipped":
        data[-9] ^= 4
        file.write_bytes(data)
    elif damage == "torn":
        file.write_bytes(data[:-100])
    else:
        shutil.rmtree(state)
    ended = call(*tiny.arguments("--until", "prefer"))
    assert ended.flat.count(f"is missing or damaged, so {stage} begins again at its first step") == 1
    assert "goes on from" not in ended.flat
    assert contents(tiny) == contents(whole)


def test_other_settings_begin_anew(tmp_path: Path, call: Call, monkeypatch: pytest.MonkeyPatch, eager: None) -> None:
    """What was saved under the old ones is no part of it, nor are the figures of steps that are not taken now."""
    tiny, other = (tiny_of(tmp_path / name, "torch", **ONE) for name in ("killed", "other"))
    with monkeypatch.context() as patch:
        steps_of(patch, stop_before=4)
        until_killed(tiny, call)
    changed = ("--until", "sft", "--set", "sft.lr=0.001")
    assert call(*other.arguments(*changed)).code == 0
    ended = call(*tiny.arguments(*changed))
    assert ended.code == 0, ended.err
    assert "goes on from" not in ended.flat
    assert contents(tiny)[0] == contents(other)[0]
    assert tiny.bytes_of("adapters/*/*", "state/*/*") == other.bytes_of("adapters/*/*", "state/*/*")


def test_a_short_run_saves_nothing_on_its_way(tmp_path: Path, call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    saved: list[Any] = []
    monkeypatch.setattr(Checkpoint, "save", lambda *given: saved.append(given))
    tiny = tiny_of(tmp_path, "torch", **ONE)
    assert call(*tiny.arguments("--until", "prefer")).code == 0
    assert saved == []


def test_what_takes_long_to_save_is_saved_less_often(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Six seconds of saving are a twentieth of two minutes."""
    now = [1000.0]
    monkeypatch.setattr(checkpoint.time, "monotonic", lambda: now[0])

    def slow(path: Path) -> None:
        path.mkdir()
        now[0] += seconds

    job: Any = SimpleNamespace(
        folder=SimpleNamespace(state=lambda name: tmp_path / name, states=lambda: []),
        ledger=SimpleNamespace(begin_stage=lambda *_: None, finish_stage=lambda *_: None),
        model_pair=SimpleNamespace(save=slow),
        console=SimpleNamespace(say=print),
    )
    point, saved = Checkpoint(job, Mark.SFT_CHECKPOINT(), "sft"), list[int]()
    real = point.save
    monkeypatch.setattr(point, "save", lambda steps, *rest: (saved.append(steps), real(steps, *rest)))
    seconds = 1.0
    for step in range(1, 500):
        seconds = 6.0 if step > 130 else 1.0
        with point.step(step, dict[str, Any]):
            now[0] += 1.0
    assert saved == [60, 120, 180, 300, 420]


@pytest.mark.skipif(os.name == "nt", reason="needs signals")
def test_ctrl_c_in_a_step_keeps_the_step(
    whole: Tiny, tmp_path: Path, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny = tiny_of(tmp_path, "torch", **ONE)
    for nth in (3, 2):
        with monkeypatch.context() as patch:
            taken = steps_of(patch)
            counted = sft_training.train_step

            def stopping(*given: Any, nth: int = nth, taken: list[Any] = taken, counted: Any = counted) -> Any:
                if len(taken) == nth - 1:
                    signal.raise_signal(signal.SIGINT)
                return counted(*given)

            patch.setattr(sft_training, "train_step", stopping)
            assert call(*tiny.arguments("--until", "prefer")).code == 130
        assert len(taken) == nth
    ended = call(*tiny.arguments("--until", "prefer"))
    assert "SFT goes on from step 5" in ended.flat
    assert contents(tiny) == contents(whole)


@pytest.mark.slow
@pytest.mark.parametrize(("backend", "most"), [("torch", 12), ("mlx", 5), ("llamacpp", 5)])
def test_a_run_that_is_stopped_while_it_scores_asks_nothing_twice_and_ends_with_the_same_bytes(
    backend: str, most: int, tmp_path: Path, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of every stage: what was answered before the stop is not answered again."""
    monkeypatch.setattr(memo, "PASSES", 1)
    small = ONE | {"student": {"token_budget": 400}, "eval": {"metric": "none"}}
    whole, killed = (tiny_of(tmp_path / name, backend, **small) for name in ("whole", "killed"))
    with monkeypatch.context() as patch:
        kept = kept_by(patch)
        assert call(*whole.arguments("--until", "eval")).code == 0
    assert not (whole.run / "state" / "memo").exists()
    answered, every = len(kept), 1 + len(kept) // most
    kept.clear()
    monkeypatch.setattr(training_state, "SAVE_EVERY_SECONDS", 0.0)
    ended, stops = None, 0
    while ended is None:
        with monkeypatch.context() as patch:
            kept_by(patch, kept, stop_after=len(kept) + every)
            try:
                ended = call(*killed.arguments("--until", "eval"))
            except Killed:
                stops += 1
    assert ended.code == 0, ended.err
    assert stops >= most - 4
    assert len(kept) <= answered + stops  # but for what the ledger has and is measured again
    assert contents(killed) == contents(whole)
    assert killed.bytes_of("results.json") == whole.bytes_of("results.json")
    assert not (killed.run / "state" / "memo").exists()


def kept_by(patch: pytest.MonkeyPatch, kept: list[bytes] | None = None, stop_after: int | None = None) -> list[bytes]:
    """The keys of what models answer; the process is killed behind the score of that number.

    Not while it samples: log-probs of what is drawn hang in their last bits on what is drawn beside it.
    """
    keys, keep = [] if kept is None else kept, Memo.keep

    def counted(self: Memo, key: bytes, arrays: Any) -> None:
        keep(self, key, arrays)
        keys.append(key)
        if stop_after is not None and len(keys) >= stop_after and "0.tokens" not in arrays:
            raise Killed

    patch.setattr(Memo, "keep", counted)
    return keys
