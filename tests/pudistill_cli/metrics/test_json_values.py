"""JSON answers, whole and by weighted fields."""

from __future__ import annotations

import pytest

from pudistill_cli.metrics.json_values import Json, json_equal


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
        ("null", "null", 1),
        ('"1"', "1", 0),
        ('"\\u00e9"', '"é"', 1),
        ('{"a": 1', '{"a": 1', 0),  # equal, and no JSON
        ("NaN", "NaN", 0),
        ("", "", 0),
        ('```json\n{"a": 1}\n```', '{"a": 1}', 0),
        ("[" * 100_000, "[]", 0),
        ("1e999999999999999999999999", "1", 0),
        ('{"a":' * 400 + "1" + "}" * 400, '{"a":' * 400 + "2" + "}" * 400, 0),
        ("1" * 100_000, "1" * 100_000, 1),  # longer than Python makes an int of
    ],
)
def test_json(answer: str, reference: str, score: float):
    assert json_equal(answer, reference) == score
    assert Json()(answer, reference, "the prompt") == score


@pytest.mark.parametrize(
    ("answer", "score"),
    [
        ('{"do": "book", "event": "tea", "when": {"day": 5}}', 1),
        ('{"do": "book", "event": "TEA", "when": {"day": 5}}', 3 / 4),
        ('{"do": "move", "event": "tea", "when": {"day": 5.0}}', 2 / 4),
        ('{"do": "book", "event": "tea"}', 3 / 4),
        ('{"do": "book", "event": "tea", "when": 5, "more": true}', 3 / 4),  # what is not named does not count
        ("{}", 0),
        ('["book", "tea"]', 0),
        ("no JSON", 0),
    ],
)
def test_fields_count_by_their_weights(answer: str, score: float):
    metric = Json(fields={"do": 2, "event": 1, "when.day": 1})
    assert metric(answer, '{"do": "book", "event": "tea", "when": {"day": 5}}', "") == score


def test_a_field_that_neither_has_does_not_count_and_one_that_only_the_answer_has_is_wrong():
    metric = Json(fields={"do": 1, "alert": 1})
    assert metric('{"do": "book"}', '{"do": "book"}', "") == 1
    assert metric('{"do": "move"}', '{"do": "book"}', "") == 0
    assert metric('{"do": "book", "alert": null}', '{"do": "book"}', "") == 1 / 2
    assert metric("{}", '{"other": 1}', "") == 1


def test_paths_go_into_objects_and_lists_and_a_whole_key_goes_first():
    reference = '{"a": {"b.c": 1, "b": {"c": 2}}, "items": [{"x": 1}, {"x": 2}], "1": "one"}'
    for path, value in {"a.b.c": "1", "items.1.x": "2", "1": '"one"'}.items():
        assert Json(fields={path: 1}).alone(reference) == 1
        whole = {"a.b.c": '{"a.b.c": 1}', "items.1.x": '{"items": [0, {"x": 2}]}', "1": '{"1": "one"}'}[path]
        assert Json(fields={path: 1})(whole, reference, "") == 1, value
    for path in ("items.2.x", "items.-1", "items.x", "items.٣", "a.b.c.d", "a.", ".a", "items.99999999999999999999"):
        assert Json(fields={path: 1}).alone(reference) == 0


def test_what_is_nested_deeper_than_python_follows_is_no_traceback():
    """Where parsing goes deeper than comparing does."""
    for depth in range(300, 1000, 10):
        text = '{"a":' * depth + "1" + "}" * depth
        assert json_equal(text, text) in (0, 1)
        assert Json(fields={"a": 1, ".".join("a" * depth): 1})(text, text, "") in (0, 0.5, 1)


def test_alone_an_answer_must_be_json_with_the_fields():
    assert Json().alone('{"any": 1}') == 1
    assert Json().alone("Sure! {}") == 0
    assert Json(fields={"do": 3, "event": 1}).alone('{"do": null}') == 3 / 4
    assert Json(fields={"do": 3}).alone("Sure!") == 0


def test_references_that_no_answer_can_meet():
    assert Json().problem("{}") is None
    assert Json().problem("a text") == "is no JSON"
    assert Json(fields={"do": 1, "at": 1}).problem('{"at": 1}') is None
    assert Json(fields={"do": 1, "at": 1}).problem('{"did": 1}') == "has none of the fields do, at"


def test_only_whole_values_are_right_or_wrong():
    assert Json().is_share
    assert not Json(fields={"do": 1}).is_share
