"""Fixtures of the teacher's tests."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest

from pudistill_cli.config.teacher import EndpointTeacher
from pudistill_cli.prompts import prompt_key
from pudistill_cli.teacher.answers import Question
from pudistill_cli.teacher.endpoint import Endpoint
from pudistill_cli.types import Message
from tests.pudistill_cli.teacher.server import Behaviour, Server


@pytest.fixture
def serve() -> Iterator[Callable[[Behaviour], Server]]:
    with ExitStack() as stack:
        yield lambda behaviour: stack.enter_context(Server(behaviour).running())


@pytest.fixture
def endpoint() -> Callable[..., Endpoint]:
    """An endpoint without a key whose retries do not wait; any setting can be given."""

    def build(server: Server, **settings) -> Endpoint:
        fields = {"model": "m", "base_url": server.url, "concurrency": 1, "retries": 2, **settings}
        return Endpoint(EndpointTeacher(**fields), backoff=0.001)

    return build


@pytest.fixture
def ask() -> Callable[..., list[Question]]:
    """Questions of one user message each."""

    def questions(*texts: str) -> list[Question]:
        asked = [(Message("user", text),) for text in texts]
        return [Question(prompt_key(messages), messages) for messages in asked]

    return questions
