"""Whatever a student or a teacher writes, a grade is a number, and a share where it says so."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from pudistill_cli.config.metric_settings import metric_from
from pudistill_cli.metrics.json_values import Json
from pudistill_cli.metrics.metric import Metric
from pudistill_cli.metrics.numbers import Number
from pudistill_cli.metrics.patterns import Contains, Regex
from pudistill_cli.metrics.texts import Chrf, Exact

METRICS = (
    Exact(),
    Chrf(),
    Json(),
    Json(fields={"a": 2, "b.0": 1}),
    Number(),
    Number(absolute=0.5, relative=0.1),
    Regex(pattern=r"(?s)^\{.*\}$"),
    Contains(strings=["a", "ß"], ignore_case=True),
)
PIECES = ("{", "}", "[", "]", '"a"', '"b"', ":", ",", "1", "-", "−", ".", "e9", "e-99999999999", "NaN", "true", "null",
          "$", "٤", "\ud800", "\0", "ẞ", " ", "\n")  # fmt: skip
TEXTS = st.one_of(
    st.text(), st.lists(st.sampled_from(PIECES), max_size=12).map("".join), st.text(alphabet="\ud800\udfff{}1")
)
ANY = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text() | st.sampled_from(["name", "fields", "pattern"]), inner),
)


@pytest.mark.parametrize("metric", METRICS, ids=str)
@settings(max_examples=60, deadline=None)
@given(answer=TEXTS, reference=TEXTS)
def test_a_grade_is_from_0_to_1(metric: Metric, answer: str, reference: str):
    grade = metric(answer, reference, "prompt")
    assert 0 <= grade <= 1
    assert not metric.is_share or grade in (0, 1)
    assert (alone := metric.alone(answer)) is None or 0 <= alone <= 1
    if metric.problem(reference) is not None:
        assert metric.name != "number" or grade == 0


@settings(max_examples=60, deadline=None)
@given(value=ANY, name=st.sampled_from(["json", "number", "regex", "contains", "exact", "none"]))
def test_settings_are_taken_or_refused(value: Any, name: str):
    for given_ in (
        value,
        {"name": name, "fields": value},
        {"name": name, "pattern": value},
        {"name": name, "strings": value},
    ):
        try:
            metric_from(given_)
        except (ValueError, ValidationError):
            continue
