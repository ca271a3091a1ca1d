"""A stage that trains goes on from its checkpoint, to the bytes of a run that was not stopped."""

from __future__ import annotations

from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from pudistill_cli.run.ledger import Ledger
from pudistill_cli.stages import checkpoint, dev_check, preference_update, sft_length, sft_training
from pudistill_cli.stages.checkpoint import Checkpoint
from pudistill_cli.stages.dev_check import DevCheck
from tests.tiny import SIZES, Ended, Tiny, lines_of

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


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dev_check, "FEWEST", SIZES["dev"])
    monkeypatch.setattr(sft_length, "PATIENCE", 1)
    monkeypatch.setattr(sft_length, "LONGEST", 2)


@pytest.fixture
def eager(monkeypatch: pytest.MonkeyPatch) -> None:
    """A checkpoint after every step."""
    monkeypatch.setattr(checkpoint, "EVERY_SECONDS", 0.0)
    monkeypatch.setattr(checkpoint, "SHARE", float("inf"))


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


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["torch", "mlx", "llamacpp"])
def test_a_run_that_is_stopped_at_every_step_takes_each_once_and_ends_with_the_same_bytes(
    backend: str, tmp_path: Path, call: Call, monkeypatch: pytest.MonkeyPatch, eager: None
) -> None:
    whole, killed = (tiny_of(tmp_path / name, backend) for name in ("whole", "killed"))
    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "EVERY_SECONDS", 60.0)
        expected = steps_of(patch)
        assert call(*whole.arguments("--until", "prefer")).code == 0
    taken: list[Any] = []
    for attempt in count():
        assert attempt < 2 * len(expected)
        with monkeypatch.context() as patch:
            steps = steps_of(patch, stop_before=2)
            try:
                ended = call(*killed.arguments("--until", "prefer"))
            except Killed:
                continue
            finally:
                taken += steps
        break
    assert ended.code == 0, ended.err
    assert attempt >= len(expected) - 1
    assert [b.rows if hasattr(b, "rows") else len(b.groups) for b in taken] == [
        b.rows if hasattr(b, "rows") else len(b.groups) for b in expected
    ]
    assert contents(killed) == contents(whole)
