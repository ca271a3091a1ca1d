"""A step that ended the process, or that had too little memory, is done again in smaller passes."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pudistill_cli.backend_api.contract import Row, SftBatch
from pudistill_cli.errors import OutOfMemory, TrainingError
from pudistill_cli.run.folder import RunFolder
from pudistill_cli.stages.train_step import stopped, train_step
from tests.tiny import Ended, Tiny

Call = Callable[..., Ended]
BATCH = SftBatch((Row((3,), (4,)),))


class FakeLearner:
    """Keeps how many tokens were in a pass of each step."""

    def __init__(self, budget: int = 4096, least: int = 1, error: BaseException | None = None) -> None:
        self.budget, self.least, self.error = budget, least, error
        self.tried: list[int] = []

    def step(self, batch: SftBatch, lr: float) -> dict[str, float]:
        self.tried.append(self.budget)
        if self.error is not None:
            raise self.error
        return {"loss": lr}

    def halve_budget(self) -> int | None:
        if self.budget <= self.least:
            return None
        self.budget //= 2
        return self.budget

    def snapshot(self, path: Path) -> Path:
        return path


@pytest.fixture
def folder(tmp_path: Path) -> Any:
    opened = RunFolder.create_or_open(tmp_path, "run", {})
    yield opened
    opened.close()


def job_of(folder: RunFolder, learner: FakeLearner, device: str = "cpu") -> Any:
    warnings: list[str] = []
    return SimpleNamespace(
        folder=folder,
        learner=learner,
        resolved={"device": device},
        console=SimpleNamespace(warn=warnings.append),
        warnings=warnings,
    )


def test_the_end_names_what_helps(folder: RunFolder) -> None:
    job = job_of(folder, FakeLearner())
    ended = stopped(job, OutOfMemory("There is not enough memory."), "sft", "SFT stopped at step 3", "sft.lr=0.1")
    assert isinstance(ended, OutOfMemory)
    assert ended.exit_code == 6
    assert "close other programs" in ended.hint
    assert "sft.lr" not in ended.hint
    ended = stopped(job, TrainingError("not finite."), "round-1", "round-1 stopped", "train.lr=0.1")
    assert ended.message == "round-1 stopped: not finite."
    assert f"{folder.adapter('round-1-stopped')}. Try a lower rate: --set train.lr=0.1 --name run-2" in ended.hint


def test_where_a_step_has_spoilt_the_adapter_the_last_good_one_is_named(folder: RunFolder) -> None:
    class Spoilt(FakeLearner):
        def snapshot(self, path: Path) -> Path:
            raise TrainingError("The adapter is not finite after this training.")

    job = job_of(folder, Spoilt())
    ended = stopped(job, TrainingError("not finite."), "sft", "SFT stopped at step 3", "sft.lr=0.1")
    assert ended.hint == "No adapter was good yet. Try a lower rate: --set sft.lr=0.1 --name run-2"
    for age, kept in ((30, folder.adapter("sft")), (10, folder.state("sft-at-5")), (20, folder.adapter("other"))):
        kept.mkdir(parents=True)
        then = kept.stat().st_mtime - age
        os.utime(kept, (then, then))
    ended = stopped(job, TrainingError("not finite."), "sft", "SFT stopped at step 3", "sft.lr=0.1")
    assert f"The last good adapter is {folder.state('sft-at-5')}." in ended.hint


# --- a process that the system ends ---


class Killed(FakeLearner):
    """Looks at the marker in the middle of a step, as a process that ends there would leave it."""

    marker: Path

    def step(self, batch: SftBatch, lr: float) -> dict[str, float]:
        self.seen = self.marker.exists()
        return super().step(batch, lr)


@pytest.mark.parametrize(("device", "expected"), [("gpu", True), ("mps", True), ("cpu", False), ("cuda:0", False)])
def test_a_step_leaves_a_trace_only_where_it_may_end_the_process(
    folder: RunFolder, device: str, expected: bool
) -> None:
    for error in (None, TrainingError("not finite"), KeyboardInterrupt()):
        learner = Killed(error=error)
        learner.marker = folder.step_marker
        try:
            train_step(job_of(folder, learner, device), BATCH, 0.5)
        except (TrainingError, KeyboardInterrupt):
            assert error is not None
        assert learner.seen is expected
        assert not folder.step_marker.exists()


def test_after_a_step_that_ended_the_process_the_budget_is_halved_at_once(folder: RunFolder) -> None:
    for budget in (4096, 2048):
        folder.step_marker.touch()
        job = job_of(folder, FakeLearner(budget), "gpu")
        train_step(job, BATCH, 0.5)
        assert job.learner.tried == [budget // 2]
        assert len(job.warnings) == 1
        assert f"going on with half as much in a pass ({budget // 2:,} tokens)" in job.warnings[0]
        assert folder.token_budget == budget // 2
        train_step(job, BATCH, 0.5)
        assert job.learner.tried == [budget // 2, budget // 2]
        assert len(job.warnings) == 1


def test_a_pass_that_can_be_no_smaller_is_tried_again_as_it_was(folder: RunFolder) -> None:
    folder.step_marker.touch()
    job = job_of(folder, FakeLearner(16, least=16), "gpu")
    train_step(job, BATCH, 0.5)
    assert (job.learner.tried, job.warnings, folder.token_budget) == ([16], [], None)


# --- a whole run ---


@pytest.mark.parametrize(
    ("backend", "shortage"),
    [
        ("torch", "[enforce fail] DefaultCPUAllocator: can't allocate memory"),
        ("mlx", "[METAL] Command buffer execution failed: (00000008:kIOGPUCommandBufferCallbackErrorOutOfMemory)."),
    ],
)
def test_a_run_short_of_memory_ends_with_the_bytes_of_one_with_that_budget(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: Call, backend: str, shortage: str
) -> None:
    """A step that failed has changed nothing, and a resumed run does not fail again."""
    learner = pytest.importorskip(f"pudistill_{backend}.learner", reason=f"needs the {backend} backend")
    real, failed, done = learner.sft_gradient, [], []

    def short(model: Any, *given: Any) -> Any:
        found = real(model, *given)
        if model.spec.token_budget > 200:
            failed.append(model.spec.token_budget)
            raise RuntimeError(shortage)
        done.append(model.spec.token_budget)
        if len(done) == 2:  # the second of two steps
            raise KeyboardInterrupt
        return found

    threads = {"threads": None} if backend == "mlx" else {}
    tiny = Tiny.make(tmp_path / "short", backend=backend, student={"token_budget": 512, **threads})
    with monkeypatch.context() as patch:
        patch.setattr(learner, "sft_gradient", short)
        ended = call(*tiny.arguments("--until", "sft"))
        assert ended.code == 130, ended.err
        assert "not enough memory to train: going on with half as much in a pass (128 tokens)" in ended.flat
        assert call(*tiny.arguments("--until", "sft")).code == 0
    assert failed == [512, 256]
    told = Tiny.make(tmp_path / "told", backend=backend, student={"token_budget": 128, **threads})
    assert call(*told.arguments("--until", "sft")).code == 0
    adapter = "adapters/sft/*.safetensors"
    assert tiny.bytes_of(adapter) == told.bytes_of(adapter)
