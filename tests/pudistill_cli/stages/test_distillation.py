"""Runs that distil: what the learner is told, and that a stopped one ends with the same bytes."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from pudistill_cli.backend_api.contract import GroupBatch
from pudistill_cli.backend_api.registry import backends
from tests.tiny import Ended, Tiny

Call = Callable[..., Ended]
LEARNERS = {"torch": "pudistill_torch.learner:TorchLearner", "mlx": "pudistill_mlx.learner:MlxLearner"}
RESULT = ("adapters/*/*", "results.json")


@pytest.fixture(params=LEARNERS)
def backend(request: pytest.FixtureRequest) -> str:
    found = backends().get(request.param)
    if found is None or found.problem() is not None:
        pytest.skip(f"needs the {request.param} backend")
    return request.param


def learner_of(backend: str) -> Any:
    module, _, name = LEARNERS[backend].partition(":")
    return getattr(import_module(module), name)


def observed(backend: str, patch: pytest.MonkeyPatch) -> tuple[list[GroupBatch], list[str]]:
    """The group batches of a run to come, and the adapters that its learner holds."""
    learner, batches, held = learner_of(backend), [], []
    step, load, drop = learner.step, learner.load_adapter, learner.drop_adapter

    def watched_step(self: Any, batch: Any, lr: float) -> Any:
        if isinstance(batch, GroupBatch):
            assert batch.judge is None or batch.judge in held
            batches.append(batch)
        return step(self, batch, lr)

    def watched_load(self: Any, path: Path) -> str:
        held.append(load(self, path))
        return held[-1]

    def watched_drop(self: Any, adapter: str) -> None:
        held.remove(adapter)
        drop(self, adapter)

    for name, function in (("step", watched_step), ("load_adapter", watched_load), ("drop_adapter", watched_drop)):
        patch.setattr(learner, name, function)
    return batches, held


@pytest.mark.parametrize(
    ("backend", "objective"),
    [("torch", "sdft"), ("mlx", {"name": "ldl-grpo", "distil": 0.5})],
    indirect=["backend"],
    ids=["torch, distillation alone", "mlx, distillation beside an objective"],
)
def test_a_stopped_run_ends_with_the_same_bytes(
    backend: str, objective: Any, tmp_path: Path, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped in round 1, between its two steps: SFT has taken two before."""
    settings: dict[str, Any] = {"backend": backend, "train": {"objective": objective}, "prefer": {"rounds": 1}}
    whole, tiny = Tiny.make(tmp_path / "whole", **settings), Tiny.make(tmp_path / "stopped", **settings)
    ended = call(*whole.arguments("--until", "eval"))
    assert ended.code == 0, ended.err
    learner, taken = learner_of(backend), 0
    step = learner.step

    def stopped(self: Any, *given: Any) -> Any:
        nonlocal taken
        taken += 1
        if taken > 3:
            raise KeyboardInterrupt
        return step(self, *given)

    with monkeypatch.context() as patch:
        patch.setattr(learner, "step", stopped)
        assert call(*tiny.arguments("--until", "eval")).code == 130
    assert call(*tiny.arguments("--until", "eval")).code == 0
    assert tiny.bytes_of(*RESULT) == whole.bytes_of(*RESULT)
    assert (
        tiny.bytes_of("adapters/round-1/*.safetensors").popitem()[1]
        != (tiny.bytes_of("adapters/sft/*.safetensors").popitem()[1])
    )
    steps = [json.loads(line) for line in (whole.run / "metrics.jsonl").read_text().splitlines()]
    assert [s["distil"] > 0 for s in steps if "distil" in s] == [True, True]


def test_the_learner_reads_the_views_that_the_scorer_reads(
    tmp_path: Path, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The prefixes that `likelihood` asked about, one a prompt; and the judge is gone when the round has ended."""
    pytest.importorskip("torch", reason="needs the torch backend")
    batches, held = observed("torch", monkeypatch)
    engine = import_module("pudistill_torch.engine").TorchEngine
    scored: set[tuple[int, ...]] = set()
    logprobs = engine.logprobs

    def watched(self: Any, requests: Sequence[Any], adapter: Any) -> Any:
        scored.update(request.prefix for request in requests)
        return logprobs(self, requests, adapter)

    monkeypatch.setattr(engine, "logprobs", watched)
    rank = {"scorer": "likelihood", "gates": False, "view": "{prompt} like {anchor}"}
    tiny = Tiny.make(tmp_path, train={"objective": "sdft"}, prefer={"rounds": 1}, rank=rank)
    ended = call(*tiny.arguments("--until", "prefer"))
    assert ended.code == 0, ended.err
    views = [group.view for batch in batches for group in batch.groups]
    assert len(views) == len(set(views)) > 8
    assert set(views) <= scored
    assert all(group.view != group.rows[0].prompt for batch in batches for group in batch.groups)
    assert all(batch.judge is not None for batch in batches)
    assert held == []


def test_a_learner_that_cannot_distil_is_refused_before_training(
    backend: str, tmp_path: Path, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = backends()[backend]
    monkeypatch.setattr(type(found), "capabilities", replace(found.capabilities, distils=False))
    objective = {"name": "ldl-grpo", "distil": 0.5}
    tiny = Tiny.make(tmp_path, backend=backend, train={"objective": objective})
    ended = call(*tiny.arguments())
    assert ended.code == 5
    assert f"The {backend} backend cannot distil the judge, as train.objective ldl-grpo does here" in ended.flat
    assert not tiny.runs.exists()
    assert call(*tiny.arguments("--until", "anchors", "--set", "train.objective=ldl-grpo")).code == 0


@pytest.mark.parametrize(("objective", "judge"), [("sdft", "base"), ("ldl-grpo", "sft")])
def test_no_adapter_is_loaded_where_none_is_read(
    objective: str, judge: str, tmp_path: Path, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("torch", reason="needs the torch backend")
    batches, _ = observed("torch", monkeypatch)
    rank = {"judge": judge}
    tiny = Tiny.make(tmp_path, train={"objective": objective}, prefer={"rounds": 1}, rank=rank)
    ended = call(*tiny.arguments("--until", "prefer"))
    assert ended.code == 0, ended.err
    assert batches
    assert all(batch.judge is None for batch in batches)
    assert all((group.view != ()) == (objective == "sdft") for batch in batches for group in batch.groups)
