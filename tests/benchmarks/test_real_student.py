"""The benchmark of the real student, on a tiny one."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.real_student import run_real_student
from tests.tiny import Tiny


@pytest.mark.slow
def test_it_tells_what_the_run_took_and_gained(tmp_path: Path) -> None:
    tiny = Tiny.make(tmp_path / "tiny", export={"formats": ["adapter"]})
    found = run_real_student(tmp_path, ["prefer.rounds=1"], str(tiny.recipe))
    assert {"SFT", "round 1: sampling", "everything else"} <= found["stages"].keys()
    assert found["seconds"] >= sum(v for name, v in found["stages"].items() if name != "everything else")
    assert "right, T=1: " in found["headline"]
    assert found["gained"][0]["set"] == "test"
    assert found["exports"].keys() == {"adapter"}
