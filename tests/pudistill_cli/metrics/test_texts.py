"""Metrics that compare texts, by hand."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter

import pytest

from pudistill_cli.metrics.texts import Chrf, Exact, chrf, distinct_n, exact
from tests.tiny import ROOT


@pytest.mark.parametrize(
    ("answer", "reference", "score"),
    [("yes", " yes\n", 1), ("Yes", "yes", 0), ("a  b", "a b", 0), ("", " ", 1), ("", "x", 0)],
)
def test_exact(answer: str, reference: str, score: float):
    assert exact(answer, reference) == score
    assert Exact()(answer, reference, "the prompt") == score


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
    assert chrf("the cat sat", "the cat sat") == pytest.approx(1)
    assert chrf("xyz", "the cat sat") == 0
    assert chrf("", "the cat sat") == 0
    for answer in ("the cat sat on a mat", "a cat sat there"):
        assert Chrf()(answer, "the cat sat there", "") == pytest.approx(_chrf2(answer, "the cat sat there"), rel=1e-6)


@pytest.mark.parametrize("metric", [Exact(), Chrf()])
def test_without_a_reference_they_say_nothing(metric: Exact | Chrf):
    assert metric.alone("any text") is None
    assert metric.problem("") is None


def test_distinct_n():
    # Bigrams: ab bc ca ab | ab bd: six, four of them different.
    assert distinct_n(["abcab", "abd"]) == 4 / 6
    assert distinct_n([(1, 2, 3), (1, 2, 3)], n=3) == 1 / 2
    assert distinct_n([(1,), ()], n=2) == 0
    assert distinct_n([(1, 1, 1), (2,)], n=1) == 2 / 4


def test_sacrebleu_is_loaded_only_when_it_is_needed():
    script = "import sys, pudistill_cli.metrics.registry; sys.exit('sacrebleu' in sys.modules or 're2' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], cwd=ROOT).returncode == 0
