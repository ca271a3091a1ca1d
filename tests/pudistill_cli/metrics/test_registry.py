"""What a recipe's `eval.metric` and the command line make of the metrics."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from pudistill_cli.allowed_code import AllowedCode
from pudistill_cli.errors import UsageError
from pudistill_cli.metrics.metric import Metric
from pudistill_cli.metrics.patterns import Regex
from pudistill_cli.metrics.registry import METRICS, measure_of


def test_metrics_that_are_data_need_no_permission():
    for name in ("exact", "chrf", "json", "number"):
        assert isinstance(measure_of(name).metric, METRICS[name])
        assert measure_of(name).name == measure_of(name).identity == name
    assert measure_of("none").metric is None
    found = measure_of(Regex(pattern="a"))
    assert found.metric == Regex(pattern="a")
    assert found.name == "regex"


def test_the_same_metric_with_other_settings_is_another_measure():
    first, second = measure_of(Regex(pattern="a")), measure_of(Regex(pattern="b"))
    assert first.name == second.name
    assert first.identity != second.identity


@pytest.fixture
def trap(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A module that leaves a file behind when it is imported, and when its function is called."""
    (tmp_path / "trap_metric.py").write_text(
        f"from pathlib import Path\nPath({str(tmp_path / 'sprung')!r}).touch()\n\ndef score(*texts):\n    return 1\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "trap_metric", raising=False)
    return tmp_path / "sprung"


def test_python_is_not_imported_without_permission(trap: Path):
    measure = measure_of("trap_metric:score")
    assert measure.name == "trap_metric:score"
    with pytest.raises(
        UsageError, match=r"asks for code to be run: eval\.metric is the Python function trap_metric:score"
    ) as error:
        _ = measure.metric
    assert "--allow-code" in error.value.hint
    assert all(name in error.value.hint for name in METRICS)
    assert not trap.exists()


def test_python_is_imported_with_permission(trap: Path):
    measure = measure_of("trap_metric:score", AllowedCode(of_recipe=True))
    assert not trap.exists()  # only when a grade is asked for
    assert isinstance(measure.metric, Metric)
    assert trap.exists()
    assert measure.options == ("--allow-code",)


def test_a_file_of_the_command_line_wins_and_the_recipe_s_code_is_left_alone(trap: Path, tmp_path: Path):
    (tmp_path / "mine.py").write_text("def score(answer, reference, prompt):\n    return 0.5\n")
    measure = measure_of("trap_metric:score", AllowedCode(metric=f"{tmp_path}/mine.py:score"))
    assert measure.metric is not None
    assert measure.metric("", "", "") == 0.5
    assert measure.name == "mine.py:score"
    assert measure.options == (f"--metric {tmp_path}/mine.py:score",)
    assert not trap.exists()
