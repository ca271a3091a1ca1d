"""What is saved makes the next steps those of a learner that was never stopped, to the bit."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
from safetensors.numpy import load_file

from pudistill_cli.backend_api.contract import GroupBatch
from pudistill_cli.errors import DataError
from pudistill_cli.method.objectives.ldl_grpo import LdlGrpo
from pudistill_mlx.learner import MlxLearner
from tests.backends.pudistill_mlx.small import (
    SFT,
    base_of,
    equal,
    fresh_learner,
    open_learner,
    policy_of,
    random_groups,
)

IN_A_NEW_PROCESS = """
import sys
from pathlib import Path
from tests.backends.pudistill_mlx.small import fresh_learner
from tests.backends.pudistill_mlx.test_training_state import some_steps
folder = Path(sys.argv[1])
learner = fresh_learner()
learner.restore(folder / "state")
print(some_steps(learner, 3))
learner.save(folder / "resumed")
"""


def some_steps(learner: MlxLearner, count: int) -> list[dict[str, float]]:
    groups = GroupBatch(LdlGrpo(), random_groups(learner))
    return [learner.step((SFT, groups)[i % 2], 1e-2) for i in range(count)]


def contents(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir()}


def test_restored_in_another_process_and_uninterrupted_are_equal_to_the_bit(tmp_path: Path) -> None:
    """Three steps, saved, three more: metrics, adapter and moments; and the base is untouched on both sides."""
    whole = open_learner()
    base = base_of(whole)
    some_steps(whole, 3)
    whole.save(tmp_path / "state")
    expected = some_steps(whole, 3)
    whole.save(tmp_path / "whole")
    command = [sys.executable, "-c", IN_A_NEW_PROCESS, str(tmp_path)]
    environment = {"PYTHONPATH": os.pathsep.join(sys.path), "PATH": ""}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == str(expected)
    assert contents(tmp_path / "resumed") == contents(tmp_path / "whole")
    assert contents(tmp_path / "resumed") != contents(tmp_path / "state")
    assert equal(base_of(whole), base)


def test_a_resume_does_not_unfreeze_the_base_or_lose_the_optimizer(tmp_path: Path) -> None:
    learner = open_learner()
    some_steps(learner, 3)
    learner.save(tmp_path / "state")
    resumed = fresh_learner()
    base = base_of(resumed)
    resumed.restore(tmp_path / "state")
    assert equal(policy_of(resumed), policy_of(learner))
    assert resumed._optimizer.steps == 3
    moments = {name: np.array(moment) for name, moment in resumed._optimizer.moments().items()}
    assert equal(moments, {name: np.array(moment) for name, moment in learner._optimizer.moments().items()})
    assert moments.keys() == {f"{name}.{kind}" for name in policy_of(learner) for kind in "mv"}
    assert all(moment.any() for moment in moments.values())
    some_steps(resumed, 2)
    assert equal(base_of(resumed), base)


def test_saved_before_the_first_step(tmp_path: Path) -> None:
    whole = open_learner()
    whole.save(tmp_path / "state")
    resumed = fresh_learner()
    resumed.restore(tmp_path / "state")
    assert some_steps(resumed, 2) == some_steps(whole, 2)
    assert equal(policy_of(resumed), policy_of(whole))


def test_a_plain_adapter_starts_the_optimizer_anew(tmp_path: Path) -> None:
    learner = open_learner()
    some_steps(learner, 2)
    learner.snapshot(tmp_path / "adapter")
    kept = policy_of(learner)
    learner.restore(tmp_path / "adapter")
    assert equal(policy_of(learner), kept)
    anew = fresh_learner()
    anew.restore(tmp_path / "adapter")
    assert some_steps(learner, 1) == some_steps(anew, 1)
    assert equal(policy_of(learner), policy_of(anew))
    assert learner._optimizer.steps == 1


def test_no_pickle_is_written(tmp_path: Path) -> None:
    learner = open_learner()
    some_steps(learner, 1)
    learner.save(tmp_path / "state")
    assert contents(tmp_path / "state").keys() == {
        "adapter_config.json", "adapter_model.safetensors", "training_state.json", "training_state.safetensors",
    }  # fmt: skip
    assert json.loads((tmp_path / "state" / "training_state.json").read_text()) == {"steps": 1}
    assert all(x.dtype == np.float32 for x in load_file(tmp_path / "state" / "training_state.safetensors").values())


@pytest.mark.parametrize("damage", ["empty", "missing", "of another rank", "no position"])
def test_a_broken_state_is_refused_and_changes_nothing(tmp_path: Path, damage: str) -> None:
    learner = open_learner()
    some_steps(learner, 1)
    learner.save(tmp_path / "state")
    tensors, position = (tmp_path / "state" / f"training_state.{end}" for end in ("safetensors", "json"))
    if damage == "empty":
        tensors.write_bytes(b"")
    elif damage == "missing":
        tensors.unlink()
    elif damage == "of another rank":
        mx.save_safetensors(str(tensors), {name: x[:1] for name, x in mx.load(str(tensors)).items()})
    else:
        position.write_text("{}")
    other = open_learner(seed=1)
    before = policy_of(other)
    with pytest.raises(DataError, match="no whole training state"):
        other.restore(tmp_path / "state")
    assert equal(policy_of(other), before)
