"""The teacher section of a recipe: what is refused, and that a key is never repeated."""

from __future__ import annotations

import pytest
from pydantic import TypeAdapter, ValidationError

from pudistill_cli.config.teacher import EndpointTeacher, FileTeacher, LocalTeacher, TeacherSettings

READ = TypeAdapter(TeacherSettings).validate_python


def test_the_kind_decides():
    assert READ({"kind": "file", "path": "a.jsonl"}) == FileTeacher(path="a.jsonl")
    assert READ({"kind": "openai", "model": "m"}) == EndpointTeacher(model="m")
    assert READ({"kind": "local", "model": "m"}) == LocalTeacher(model="m")


def test_the_key_for_openai_stays_with_openai():
    assert EndpointTeacher(model="m").api_key_env == "OPENAI_API_KEY"
    assert EndpointTeacher(model="m", base_url="http://localhost:1/v1").api_key_env is None
    named = EndpointTeacher(model="m", base_url="http://localhost:1/v1", api_key_env="MY_KEY")
    assert named.api_key_env == "MY_KEY"
    assert READ(named.model_dump()) == named


@pytest.mark.parametrize("value", ["sk-abcDEF0123456789", "sk-ABCDEF", "abcdef0123456789", "A B", "1ABC", ""])
def test_a_key_in_place_of_a_name_is_refused_and_not_repeated(value):
    with pytest.raises(ValidationError, match="must be the NAME of an environment variable") as error:
        EndpointTeacher(model="m", api_key_env=value)
    assert not value or value not in str(error.value)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"base_url": "localhost:8080/v1"}, "must start with http"),
        ({"base_url": "http://localhost:99999/v1"}, "is no address"),
        ({"base_url": "http://localhost:port/v1"}, "is no address"),
        ({"base_url": "http://[::1/v1"}, "is no address"),
        ({"base_url": "https://user:secret@host/v1"}, "must not hold a user name or password"),
        ({"base_url": "https://host/v1?key=secret"}, "must not hold a query"),
        ({"extra_body": {"n": 4, "seed": 1}}, "must not hold n: "),
        ({"max_cost": 1.0}, "needs price_in or price_out"),
        ({"concurrency": 0}, "greater than or equal to 1"),
        ({"timeout": float("inf")}, "finite"),
        ({"temprature": 1.0}, "Extra inputs"),
    ],
)
def test_bad_settings(settings, message):
    with pytest.raises(ValidationError, match=message) as error:
        EndpointTeacher(model="m", **settings)
    assert "secret" not in str(error.value)


def test_a_slash_at_the_end_makes_no_difference():
    assert EndpointTeacher(model="m", base_url="http://h/v1/") == EndpointTeacher(model="m", base_url="http://h/v1")
