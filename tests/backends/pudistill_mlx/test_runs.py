"""Whole runs on MLX: without torch, stopped in the middle, and with a student that MLX cannot hold."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pudistill_cli.backend_api.registry import backends
from pudistill_cli.run import plan
from pudistill_mlx.learner import MlxLearner
from tests.tiny import STUDENT, Ended, Tiny, process

Call = Callable[..., Ended]

NO_TORCH = """
import sys
from importlib.machinery import PathFinder

class WithoutTorch(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        return None if name.partition('.')[0] in ('torch', 'peft') else super().find_spec(name, path, target)

sys.meta_path[sys.meta_path.index(PathFinder)] = WithoutTorch
"""
RESULT = ("adapters/*/*", "results.json", "export/*/*.safetensors", "export/*/*config.json")


def test_a_run_needs_no_torch_down_to_verified_mlx_and_gguf(tmp_path: Path) -> None:
    pytest.importorskip("llama_cpp", reason="needs the llama.cpp backend, which verifies GGUF files")
    export = {"formats": ["mlx", "gguf", "hf", "adapter"], "bits": [4, 32], "quants": ["q8_0", "f32"]}
    tiny = Tiny.make(tmp_path, backend="mlx", export=export)
    with process(*tiny.arguments(), folder=tmp_path, hook=NO_TORCH) as run:
        _, err = run.communicate(timeout=280)
    assert run.returncode == 0, err
    cards = {p.parent.name: json.loads(p.read_text()) for p in tiny.run.glob("export/*/pudistill.json")}
    assert cards.keys() == {"mlx-4bit", "mlx-f32", "gguf-q8_0", "gguf-f32", "hf", "adapter"}
    kl = {name: card["verification"]["kl"] for name, card in cards.items()}
    for exact in ("mlx-f32", "hf", "adapter"):
        assert kl[exact] < 1e-9
    assert kl["gguf-f32"] < 1e-6
    assert kl["gguf-f32"] < kl["gguf-q8_0"] < kl["mlx-4bit"]


def test_a_stopped_run_ends_with_the_same_bytes(tmp_path: Path, call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stopped behind the first of SFT's two steps, and then behind the first of round 1."""
    whole = Tiny.make(tmp_path / "whole", backend="mlx")
    assert call(*whole.arguments()).code == 0
    tiny = Tiny.make(tmp_path / "stopped", backend="mlx")
    real = MlxLearner.step
    for step in (1, 2 + 1):
        steps = iter(range(step))

        def stopped(learner: MlxLearner, *given: Any, left: Iterator[int] = steps) -> Any:
            if next(left, None) is None:
                raise KeyboardInterrupt
            return real(learner, *given)

        with monkeypatch.context() as patch:
            patch.setattr(MlxLearner, "step", stopped)
            assert call(*tiny.arguments()).code == 130
    assert call(*tiny.arguments()).code == 0
    assert tiny.bytes_of(*RESULT) == whole.bytes_of(*RESULT)


@pytest.fixture
def refused(tmp_path: Path) -> dict[str, Any]:
    """A student whose RoPE scaling MLX cannot compute in batches, as a recipe's section."""
    folder = shutil.copytree(STUDENT, tmp_path / "student")
    config = json.loads((folder / "config.json").read_text())
    config["rope_parameters"] = {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 10000.0}
    (folder / "config.json").write_text(json.dumps(config))
    return {"model": str(folder)}


def test_a_student_that_mlx_cannot_hold_is_refused_before_training(
    refused: dict[str, Any], tmp_path: Path, call: Call
) -> None:
    tiny = Tiny.make(tmp_path, student=refused, backend="mlx")
    ended = call(*tiny.arguments())
    assert ended.code == 5
    assert "The mlx backend cannot train student: mlx-lm's dynamic RoPE scaling" in ended.flat
    assert "--set backend=torch" in ended.flat
    assert not tiny.runs.exists()


def test_where_auto_chose_mlx_torch_takes_such_a_student(
    refused: dict[str, Any], tmp_path: Path, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("peft", reason="needs torch and peft, which take over")
    real, mlx = plan.choose, backends()["mlx"]
    monkeypatch.setattr(plan, "choose", lambda *given: replace(real(*given), engine=mlx, learner=mlx))
    tiny = Tiny.make(tmp_path, student=refused)
    ended = call(*tiny.arguments("--until", "sft"))
    assert ended.code == 0, ended.err
    assert "torch trains, not mlx: mlx-lm's dynamic RoPE scaling" in ended.flat
    record = json.loads((tiny.run / "state" / "run.json").read_text())
    assert record["identity"]["backend.resolved"] == "torch+torch"
