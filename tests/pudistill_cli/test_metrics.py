"""Measures of answers by hand, and what a user's function may do wrong."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from pudistill_cli.config.evaluation import METRICS
from pudistill_cli.errors import UsageError
from pudistill_cli.metrics import BUILT_IN, distinct_n, load_metric
from tests.tiny import ROOT


def measure(name: str, answer: str, reference: str) -> float:
    metric = load_metric(name)
    assert metric is not None
    return metric(answer, reference, "the prompt")


def test_every_name_that_the_recipe_takes_is_there():
    assert {*BUILT_IN, "none"} == set(METRICS)
    assert load_metric("none") is None


@pytest.mark.parametrize(
    ("answer", "reference", "score"),
    [("yes", " yes\n", 1), ("Yes", "yes", 0), ("a  b", "a b", 0), ("", " ", 1), ("", "x", 0)],
)
def test_exact(answer: str, reference: str, score: float):
    assert measure("exact", answer, reference) == score


@pytest.mark.parametrize(
    ("answer", "reference", "score"),
    [
        ('{"a": 1, "b": [1, 2]}', ' {"b":[1,2],"a":1}', 1),
        ('{"a": {"x": 1, "y": 2}}', '{"a": {"y": 2, "x": 1}}', 1),
        ("[1, 2]", "[2, 1]", 0),  # the order of a list says something
        ("[1, 2]", "[1, 2, 3]", 0),
        ('{"a": 1}', '{"a": 1, "b": null}', 0),
        ("1", "1.0", 1),
        ("1e2", "100", 1),
        ("0.1", "0.10000000000000000001", 0),
        ("12345678901234567890123", "12345678901234567890124", 0),
        ("true", "1", 0),
        ("false", "0", 0),
        ("null", "false", 0),
        ('"1"', "1", 0),
        ('"\\u00e9"', '"é"', 1),
        ('{"a": 1', '{"a": 1', 0),  # equal, and no JSON
        ("NaN", "NaN", 0),
        ("", "", 0),
        ('```json\n{"a": 1}\n```', '{"a": 1}', 0),
        ("[" * 100_000, "[]", 0),
        ("1e999999999999999999999999", "1", 0),
    ],
)
def test_json(answer: str, reference: str, score: float):
    assert measure("json", answer, reference) == score


def _chrf2(answer: str, reference: str) -> float:
    """Popović 2015, equation 1 with beta 2: precision and recall of 1- to 6-grams, each averaged, no spaces."""
    a, b = (text.replace(" ", "") for text in (answer, reference))
    precision, recall = [], []
    for n in range(1, 7):
        left, right = (Counter(t[i : i + n] for i in range(len(t) - n + 1)) for t in (a, b))
        if left and right:
            shared = (left & right).total()
            precision.append(shared / left.total())
            recall.append(shared / right.total())
    p, r = sum(precision) / len(precision), sum(recall) / len(recall)
    return 5 * p * r / (4 * p + r)


def test_chrf():
    assert measure("chrf", "the cat sat", "the cat sat") == pytest.approx(1)
    assert measure("chrf", "xyz", "the cat sat") == 0
    assert measure("chrf", "", "the cat sat") == 0
    for answer in ("the cat sat on a mat", "a cat sat there"):
        assert measure("chrf", answer, "the cat sat there") == pytest.approx(
            _chrf2(answer, "the cat sat there"), rel=1e-6
        )


def test_distinct_n():
    # Bigrams: ab bc ca ab | ab bd: six, four of them different.
    assert distinct_n(["abcab", "abd"]) == 4 / 6
    assert distinct_n([(1, 2, 3), (1, 2, 3)], n=3) == 1 / 2
    assert distinct_n([(1,), ()], n=2) == 0
    assert distinct_n([(1, 1, 1), (2,)], n=1) == 2 / 4


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "my_measures").mkdir()
    (tmp_path / "my_measures" / "__init__.py").touch()
    (tmp_path / "my_measures" / "good.py").write_text(
        "def overlap(answer, reference, prompt):\n    return len(set(answer) & set(reference + prompt))\n"
        "def two(answer, reference): return 1.0\n"
        "def nothing(*texts): pass\n"
        "def nan(*texts): return float('nan')\n"
        "CONSTANT = 3\n"
    )
    (tmp_path / "my_measures" / "broken.py").write_text("1 / 0\n")
    (tmp_path / "my_measures" / "needy.py").write_text("import not_there_at_all\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    return "my_measures"


def test_a_function_of_the_users(package: str):
    metric = load_metric(f"{package}.good:overlap")
    assert metric is not None
    assert metric("abc", "b", "cd") == 2.0
    assert isinstance(metric("abc", "b", "cd"), float)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("not_here.at_all:f", "no module named 'not_here'"),
        ("my_measures.needy:f", "no module named 'not_there_at_all'"),
        ("my_measures.broken:f", r"importing my_measures\.broken failed: ZeroDivisionError: division by zero"),
        ("my_measures.good:missing", r"my_measures\.good has no function 'missing'"),
        ("my_measures.good:CONSTANT", "has no function 'CONSTANT'"),
        ("my_measures.good:two", "cannot be called with three texts: too many positional arguments"),
    ],
)
def test_a_function_that_cannot_be_used_is_one_message(package: str, name: str, message: str):
    with pytest.raises(UsageError, match=message) as error:
        load_metric(name)
    assert error.value.hint


@pytest.mark.parametrize(("name", "value"), [("nothing", "None"), ("nan", "nan")])
def test_what_it_returns_must_be_a_number(package: str, name: str, value: str):
    metric = load_metric(f"{package}.good:{name}")
    assert metric is not None
    with pytest.raises(UsageError, match=f"returned {value}, not a finite number"):
        metric("", "", "")


def test_sacrebleu_is_loaded_only_when_it_is_needed():
    script = "import sys, pudistill_cli.metrics as m; m.load_metric('chrf'); sys.exit('sacrebleu' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], cwd=ROOT).returncode == 0
