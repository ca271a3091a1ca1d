"""What counts as a secret, what does not, and what is written in its place."""

from __future__ import annotations

from typing import Any

import pytest

from pudistill_cli.redaction import (
    REDACTED,
    redacted,
    redacted_change,
    redacted_teacher,
    redacted_url,
    redacted_value,
    redacted_words,
    secrets_of,
)

TOKEN = "3f8a9c2d7b6e4f1a0c9d8e7f6a5b4c3d"


@pytest.mark.parametrize(
    "url",
    [
        f"https://host/v1/{TOKEN}/",
        f"https://host/{TOKEN}/v1",
        "https://host/v1/123e4567-e89b-12d3-a456-426614174000",
        "https://host/v1/aB3-dE5_fG7hI9jK1",
        "https://host/v1/Zm9vYmFyYmF6cXV4Cg",
        "https://host/v1/my-secret-path",
        "https://host/v1/supersecretpathtoken",
        "https://host/v1/hunter2hunter2",
        "https://host/v1/account-0123456789",
        "https://host/token/abcdef/v1",
        "https://user:password@host/v1",
        "https://host/v1?api-version=1",
        "https://host/v1#fragment",
    ],
)
def test_a_secret_in_an_address_is_replaced_once(url: str) -> None:
    shown = redacted_url(url)
    assert REDACTED.search(shown)
    assert shown.startswith(("https://host/", "https://REDACTED-"))
    assert redacted_url(shown) == shown
    for secret in (
        TOKEN,
        "123e4567",
        "aB3",
        "Zm9v",
        "my-secret",
        "supersecret",
        "hunter2",
        "abcdef",
        "user",
        "=1",
        "#f",
    ):
        assert secret not in shown


@pytest.mark.parametrize(
    "url",
    [
        "https://api.openai.com/v1",
        "http://127.0.0.1:8080/v1",
        "http://[::1]:8080/v1",
        "https://res.openai.azure.com/openai/deployments/gpt-4o-mini-2024-07-18",
        "https://generativelanguage.googleapis.com/v1beta/openai",
        "https://dashscope-intl.aliyuncs.com/compatible-mode/v1",
        "https://host/models/Meta-Llama-3.1-8B-Instruct-Turbo/v1",
        "https://host/models/mistralai/Mixtral-8x7B-Instruct-v0.1",
        "https://host/chat-completions-gateway-production-eastus2/v1",
        "https://host/internationalization/tokenize",
        "https://host/${TOKEN}/v1",
    ],
)
def test_other_addresses_stay(url: str) -> None:
    assert redacted_url(url) == url


NAMES = ["api_key", "apiKey", "X-Api-Key", "OPENAI_API_KEY", "api_key2", "token", "access_token", "hf_token", "jwt"]
NAMES += ["Authorization", "auth", "db_password", "passwd", "pass", "clientSecret", "private_key", "cookie", "sig"]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("value", ["short", 1234.5, ["a", "b"], {"x": {"y": "z"}}])
def test_a_value_of_such_a_name_is_a_secret_at_any_depth(name: str, value: Any) -> None:
    if "token" in name.lower() and isinstance(value, float):
        return
    body = {"deep": [{name: value}]}
    shown = redacted_value(body)
    assert shown != body
    assert not {"short", "1234.5", "'a'", "'z'"} & set(str(shown).replace(":", " ").replace("}", " ").split())
    assert redacted_value(shown) == shown


def test_other_values_stay() -> None:
    body = {
        "max_tokens": 5,
        "token": 7,  # a number of tokens
        "eos_token": "</s>",
        "stop_token_ids": [1, 2],
        "prompt_cache_key": "mine",
        "safety_identifier": "user-1",
        "reasoning_effort": "low",
        "password": None,
        "api_key": "${MY_KEY}",
        "headers": {"Authorization": "Bearer ${MY_KEY}"},
        "guided_regex": "[a-z0-9]{24}",
        "response_format": {"type": "json_schema", "json_schema": {"name": "a_schema_with_a_long_name"}},
    }
    assert redacted_value(body) == body


def test_what_stands_in_its_place_tells_secrets_apart_and_leads_nowhere() -> None:
    assert redacted("one") == redacted("one") != redacted("two")
    # openssl kdf -keylen 4 -kdfopt digest:SHA256 -kdfopt pass:one -kdfopt salt:pudistill -kdfopt iter:100000 PBKDF2
    assert redacted("one") == "REDACTED-04ab9c15"
    assert redacted(redacted("one")) == redacted("one")


@pytest.mark.parametrize(
    ("change", "gone"),
    [
        (f"teacher.base_url=https://host/v1/{TOKEN}", TOKEN),
        ("teacher.extra_body.api_key=hidden", "hidden"),
        ("teacher.extra_body.headers.Authorization=Bearer hidden", "hidden"),
        ("teacher.extra_body={top_k: 5, deep: [{password: hidden, x: 1}]}", "hidden"),
        ("teacher={kind: openai, model: m, extra_body: {token: 'hid den'}}", "hid den"),
        ("teacher.extra_body={api_key: hidden", "hidden"),
    ],
)
def test_a_change_on_the_command_line_is_shown_without_it(change: str, gone: str) -> None:
    shown = redacted_change(change)
    assert gone not in shown
    assert shown.startswith(change.partition("=")[0] + "=")
    assert REDACTED.search(shown)


@pytest.mark.parametrize(
    "change",
    [
        "prefer.k=8",
        "teacher={kind: file, path: x.jsonl}",
        "teacher.system=Answer: yes {",
        "teacher.model=m",
        "no equals",
    ],
)
def test_other_changes_are_shown_as_they_were_typed(change: str) -> None:
    assert redacted_change(change) == change


def test_the_words_of_others_lose_addresses_secrets_and_keys() -> None:
    text = "503 for https://cdn.example/file?X-Signature=abcdef&x, key sk-abcdefghijklmnopqrstu."
    shown = redacted_words(text)
    assert "abcdef" not in shown
    assert shown.startswith("503 for https://cdn.example/file?X-Signature=REDACTED-")
    assert shown.endswith(".")
    assert (
        redacted_words("See https://huggingface.co/org/Some-Model-8x7B.")
        == "See https://huggingface.co/org/Some-Model-8x7B."
    )


def test_a_teacher_s_secrets_are_all_that_is_replaced() -> None:
    settings = {
        "model": "m",
        "base_url": f"https://host/{TOKEN}/v1",
        "extra_body": {"password": "one two", "deep": [{"auth": {"user": "joe"}}], "seed": 1},
    }
    assert secrets_of(settings) == {TOKEN, "one two", "one", "two", "joe"}
    shown = redacted_teacher(settings)
    assert shown["model"] == "m"
    assert shown["extra_body"]["seed"] == 1
    assert secrets_of(shown) == set()
