"""A function of the person's: what it may do wrong, and that a file runs as it was hashed."""

from __future__ import annotations

import sys
from hashlib import sha256
from pathlib import Path

import pytest

from pudistill_cli.errors import UsageError
from pudistill_cli.metrics.python_code import MetricFile, of_module


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "my_measures").mkdir()
    (tmp_path / "my_measures" / "__init__.py").touch()
    (tmp_path / "my_measures" / "good.py").write_text(
        "def overlap(answer, reference, prompt):\n    return len(set(answer) & set(reference + prompt))\n"
        "def two(answer, reference): return 1.0\n"
        "def nothing(*texts): pass\n"
        "def nan(*texts): return float('nan')\n"
        "def huge(*texts): return 10**5000\n"
        "CONSTANT = 3\n"
    )
    (tmp_path / "my_measures" / "broken.py").write_text("1 / 0\n")
    (tmp_path / "my_measures" / "needy.py").write_text("import not_there_at_all\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    return "my_measures"


def test_a_function_of_a_module(package: str):
    metric = of_module(f"{package}.good:overlap")
    assert metric("abc", "b", "cd") == 2.0
    assert isinstance(metric("abc", "b", "cd"), float)
    assert metric.is_share is None
    assert metric.alone("abc") is None


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("not_here.at_all:f", "no module named 'not_here'"),
        ("my_measures.needy:f", "no module named 'not_there_at_all'"),
        ("my_measures.broken:f", r"importing my_measures\.broken failed: ZeroDivisionError: division by zero"),
        ("my_measures.good:missing", "no function 'missing'"),
        ("my_measures.good:CONSTANT", "no function 'CONSTANT'"),
        ("my_measures.good:two", "cannot be called with three texts: too many positional arguments"),
    ],
)
def test_a_function_that_cannot_be_used_is_one_message(package: str, name: str, message: str):
    with pytest.raises(UsageError, match=message) as error:
        of_module(name)
    assert error.value.hint


@pytest.mark.parametrize(
    ("name", "said"),
    [("nothing", "returned None, not a number"), ("nan", "that is not finite"), ("huge", "that is not finite")],
)
def test_what_it_returns_must_be_a_number(package: str, name: str, said: str):
    metric = of_module(f"{package}.good:{name}")
    with pytest.raises(UsageError, match=said):
        metric("", "", "")


def test_a_function_of_a_file(tmp_path: Path):
    path = tmp_path / "my_metric.py"
    path.write_text(
        "from dataclasses import dataclass\n\n@dataclass\nclass Held:\n    n: int\n\n"
        "def score(answer, reference, prompt):\n    return Held(len(answer)).n\n"
    )
    source = path.read_bytes()
    file = MetricFile.read(f"{path}:score")
    path.write_text("raise SystemExit('another file by now')")
    metric = file.load()
    assert (metric.name, metric("abc", "", "")) == ("my_metric.py:score", 3)
    assert file.identity == f"my_metric.py:score sha256 {sha256(source).hexdigest()}"
    assert str(tmp_path) not in sys.path


@pytest.mark.parametrize(
    "named", ["score", "my_metric.py", "my_metric.py:", "my_metric.txt:score", "m.py:a b", "m:score"]
)
def test_a_file_that_is_named_otherwise_is_told_how(named: str):
    with pytest.raises(UsageError, match=r"it is FILE\.py:FUNCTION"):
        MetricFile.read(named)


def test_a_file_that_is_not_there_or_fails(tmp_path: Path):
    with pytest.raises(UsageError, match="No such file"):
        MetricFile.read(f"{tmp_path}/none.py:score")
    (tmp_path / "broken.py").write_text("1 / 0")
    with pytest.raises(UsageError, match="ZeroDivisionError"):
        MetricFile.read(f"{tmp_path}/broken.py:score").load()
    (tmp_path / "other.py").write_text("def grade(*texts): return 1")
    with pytest.raises(UsageError, match="no function 'score'"):
        MetricFile.read(f"{tmp_path}/other.py:score").load()
