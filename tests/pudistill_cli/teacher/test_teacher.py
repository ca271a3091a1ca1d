"""ask_all: cache first, every answer kept as it arrives, whatever ends the asking."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from pudistill_cli.config.teacher import EndpointTeacher, FileTeacher, LocalTeacher
from pudistill_cli.errors import TeacherError
from pudistill_cli.teacher.answers import Answer
from pudistill_cli.teacher.asking import ask_all
from pudistill_cli.teacher.cache import AnswerCache
from pudistill_cli.teacher.endpoint import Endpoint
from pudistill_cli.teacher.file import AnswerFile
from pudistill_cli.teacher.opening import open_teacher
from tests.pudistill_cli.teacher.server import Response, fails, says


@pytest.fixture
def cache(tmp_path):
    with AnswerCache(tmp_path / "answers.sqlite") as cache:
        yield cache


def nothing(question, answer) -> None:
    pass


def test_an_answered_prompt_is_never_asked_again(serve, endpoint, ask, cache):
    server = serve(lambda request: says(request.prompt.upper()))
    texts = []
    first = ask_all(endpoint(server), ask("a", "b"), cache, lambda q, a: texts.append(a.text))
    second = ask_all(endpoint(server), ask("b", "c", "a"), cache, lambda q, a: texts.append(a.text))
    assert server.prompts == ["a", "b", "c"]
    assert texts == ["A", "B", "B", "A", "C"]
    assert first == {q.key: second[q.key] for q in ask("a", "b")}
    assert [second[q.key].text for q in ask("a", "b", "c")] == ["A", "B", "C"]


def test_a_question_that_comes_twice_is_asked_once(serve, endpoint, ask, cache):
    server = serve(lambda request: says("x"))
    ask_all(endpoint(server), ask("a", "a"), cache, nothing)
    assert server.prompts == ["a"]


def test_other_parameters_are_another_teacher(serve, endpoint, ask, cache):
    server = serve(lambda request: says("x"))
    ask_all(endpoint(server), ask("a"), cache, nothing)
    ask_all(endpoint(server, temperature=0.5), ask("a"), cache, nothing)
    assert server.prompts == ["a", "a"]


def test_a_kept_answer_that_broke_off_is_asked_for_again(serve, endpoint, ask, cache):
    """Older versions kept such answers as whole."""
    server = serve(lambda request: says("whole"))
    teacher, asked = endpoint(server, max_tokens=8), ask("half", "cut", "good")
    kept = [
        Answer("It", "ok", "error", False, 3, 2),
        Answer("It is", "ok", "stop", False, 3, 8),
        Answer("[THINK]a[/THINK]It is four.<|im_end|>", "ok", "stop", False, 3, 7),
    ]
    for question, answer in zip(asked, kept, strict=True):
        cache.put(teacher.identity(), question.messages, answer)
    answers = ask_all(teacher, asked, cache, nothing)
    assert [(answers[q.key].text, answers[q.key].status) for q in asked] == [
        ("whole", "ok"),
        ("It is", "truncated"),
        ("It is four.", "ok"),
    ]
    assert server.prompts == ["half"]
    ask_all(teacher, asked, cache, nothing)
    assert server.prompts == ["half"]


def test_an_unknown_reason_is_not_paid_for_twice(serve, endpoint, ask, cache):
    server = serve(lambda request: says("It is four.", "quiescence"))
    for _ in range(2):
        [answer] = ask_all(endpoint(server), ask("a"), cache, nothing).values()
        assert (answer.text, answer.status) == ("It is four.", "truncated")
    assert server.prompts == ["a"]


def test_refusals_are_kept_and_errors_asked_again(serve, endpoint, ask, cache):
    server = serve(lambda r: fails(400) if r.prompt == "error" else says(None, refusal="no"))
    asked = ask("error", "refused")
    for _ in range(2):
        answers = ask_all(endpoint(server), asked, cache, nothing)
        assert [answers[q.key].status for q in asked] == ["error", "refused"]
    assert server.prompts == ["error", "refused", "error"]


def test_a_full_cache_needs_neither_key_nor_network(serve, endpoint, ask, cache, monkeypatch):
    monkeypatch.delenv("NO_SUCH_KEY", raising=False)
    server = serve(lambda request: says("x"))
    ask_all(endpoint(server), ask("a"), cache, nothing)
    keyless = endpoint(server, api_key_env="NO_SUCH_KEY")
    assert [answer.text for answer in ask_all(keyless, ask("a"), cache, nothing).values()] == ["x"]
    assert server.prompts == ["a"]


@pytest.mark.parametrize("number", [-1, 1e30, "7", 7.5, 2**63, 10**400, True, None])
def test_an_absurd_reply_is_kept_and_paid_for_once(serve, endpoint, ask, cache, number):
    """With limits too: what is not known is estimated."""
    reply = {"choices": [{"message": {"content": "four\0 \ud83d"}, "finish_reason": "st\ud83dop"}]}
    reply["usage"] = {"prompt_tokens": number, "completion_tokens": number}
    server = serve(lambda request: Response(body=json.dumps(reply).encode()))
    for _ in range(2):
        [answer] = ask_all(endpoint(server, max_tokens_total=5000), ask("a"), cache, nothing).values()
        assert (answer.text, answer.prompt_tokens, answer.completion_tokens) == ("four ?", 0, 0)
    assert server.prompts == ["a"]


def test_a_files_answers_are_read_again_and_not_cached(ask, cache, tmp_path):
    """Thousands of synced commits for what lies there anyway."""
    path = tmp_path / "answers.jsonl"
    path.write_text('{"prompt": "a", "answer": "A"}\n{"prompt": "b", "answer": "B"}\n')
    for _ in range(2):
        teacher = AnswerFile(path)
        answers = ask_all(teacher, ask("a", "b"), cache, nothing)
        assert [answers[q.key].text for q in ask("a", "b")] == ["A", "B"]
        assert [cache.get(teacher.identity(), q.messages) for q in ask("a", "b")] == [None, None]


def test_a_limit_keeps_the_answers_before_it(serve, endpoint, ask, cache):
    server = serve(lambda request: says(request.prompt))
    for expected in (["a", "b"], ["a", "b", "c", "d"]):
        with pytest.raises(TeacherError, match="2 of"):
            ask_all(endpoint(server, max_calls=2), ask(*"abcde"), cache, nothing)
        assert server.prompts == expected
    answers = ask_all(endpoint(server, max_calls=2), ask(*"abcde"), cache, nothing)
    assert sorted(answer.text for answer in answers.values()) == list("abcde")
    assert server.prompts == list("abcde")


def test_an_error_of_the_caller_closes_the_teacher(serve, endpoint, ask, cache):
    class DiskFullError(Exception):
        pass

    def fail(question, answer):
        raise DiskFullError

    server = serve(lambda request: says(request.prompt))
    with pytest.raises(DiskFullError):
        ask_all(endpoint(server), ask(*"abcdef"), cache, fail)
    assert cache.get(endpoint(server).identity(), ask("a")[0].messages) is not None
    assert len(server.requests) <= 2


KILLED = """
import os, signal, sys
from pathlib import Path
from pudistill_cli.types import Message
from pudistill_cli.teacher.answers import Question
from pudistill_cli.teacher.asking import ask_all
from pudistill_cli.teacher.cache import AnswerCache
from pudistill_cli.teacher.endpoint import Endpoint
from pudistill_cli.config.teacher import EndpointTeacher

seen = []

def die_at_the_third(question, answer):
    seen.append(answer)
    if len(seen) == 3:
        os.kill(os.getpid(), signal.SIGKILL)

teacher = Endpoint(EndpointTeacher(model="m", base_url=sys.argv[1], concurrency=1))
questions = [Question(text, (Message("user", text),)) for text in "abcdef"]
ask_all(teacher, questions, AnswerCache(Path(sys.argv[2])), die_at_the_third)
"""


def test_after_a_kill_only_the_missing_prompts_are_asked(serve, endpoint, ask, tmp_path):
    server = serve(lambda request: says(request.prompt.upper()))
    path = tmp_path / "answers.sqlite"
    killed = subprocess.run([sys.executable, "-c", KILLED, server.url, str(path)], env=_environment())
    assert killed.returncode == -9
    server.requests.clear()
    with AnswerCache(path) as cache:
        answers = ask_all(endpoint(server), ask(*"abcdef"), cache, nothing)
    assert server.prompts == ["d", "e", "f"]
    assert [answers[q.key].text for q in ask(*"abcdef")] == list("ABCDEF")


def _environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}


def test_open_teacher_builds_each_kind(tmp_path):
    path = tmp_path / "answers.jsonl"
    path.write_text('{"prompt": "q", "answer": "a"}\n')
    opened: list[LocalTeacher] = []
    local = LocalTeacher(model="folder")

    def build(settings):
        return open_teacher(settings, folder=tmp_path, open_local=opened.append)

    assert isinstance(build(FileTeacher(path="answers.jsonl")), AnswerFile)
    assert isinstance(build(FileTeacher(path=str(path))), AnswerFile)
    assert isinstance(build(EndpointTeacher(model="m")), Endpoint)
    assert opened == []
    build(local)
    assert opened == [local]
