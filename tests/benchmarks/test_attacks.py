"""A small part of what `benchmarks.faults` does: real processes, killed, run at once, damaged, without a network."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from benchmarks.attacks.bits import MENDED, flip_bits
from benchmarks.attacks.kills import kill_everywhere
from benchmarks.attacks.questions import again_and_again, at_once, within_limit
from benchmarks.attacks.sockets import run_offline

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform == "win32", reason="kills process groups"),
]


def test_killed_runs_end_as_a_quiet_one_does(tmp_path: Path) -> None:
    found = kill_everywhere(tmp_path, "torch", 2, seed=1)
    assert found.differing == []
    assert (found.kills, found.survived, found.repeated_otherwise) == (2, 2, 0)
    assert (found.tracebacks, found.hangs) == (0, 0)


def test_commands_at_the_same_time_ask_each_question_once(tmp_path: Path) -> None:
    found = at_once(tmp_path / "both", 2, killed=0, prompts=60)
    assert (found.requests, found.repeated, found.unfinished, found.tracebacks) == (60, 0, 0, 0)


def test_a_kill_costs_no_more_than_what_was_on_its_way(tmp_path: Path) -> None:
    found = again_and_again(tmp_path / "again")
    assert found.repeated <= found.allowed
    assert (found.unfinished, found.tracebacks, found.hangs) == (0, 0, 0)


def test_a_limit_is_not_exceeded(tmp_path: Path) -> None:
    found = within_limit(tmp_path / "limit")
    assert found.requests > 40
    assert (found.unfinished, found.tracebacks) == (0, 0)


def test_a_damaged_adapter_is_named_and_trained_again(tmp_path: Path) -> None:
    flips = flip_bits(tmp_path, "torch", 3, only="adapters/round-1")
    assert {flip.file.rpartition("/")[2]: (flip.outcome, flip.said) for flip in flips} == {
        "adapter_config.json": (MENDED, True),
        "adapter_model.safetensors": (MENDED, True),
    }


def test_a_run_opens_no_socket(tmp_path: Path) -> None:
    found = run_offline(tmp_path, "torch")
    if found.sockets is None and not found.namespace:
        pytest.skip("needs strace, or a namespace of one's own")
    assert found.sockets in (0, None)
    assert (found.code, found.tracebacks) == (0, 0)
