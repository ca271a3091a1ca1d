"""A local model as the teacher, through an engine that a test can predict."""

from __future__ import annotations

import numpy as np

from pudistill_cli.contract import Candidate
from pudistill_cli.prompts import Message
from pudistill_cli.teacher import Question
from pudistill_cli.teacher.local import LocalModel
from pudistill_cli.teacher.settings import LocalTeacher


class EchoEngine:
    """Answers with the prompt's own tokens, cut at the limit; finishes the last prompt first."""

    def __init__(self) -> None:
        self.calls = []

    def sample(self, prompts, k, sampling, adapter):
        self.calls.append(([p.key for p in prompts], k, sampling, adapter))
        for i, prompt in reversed(list(enumerate(prompts))):
            tokens = prompt.tokens[: sampling.max_new_tokens]
            finish = "stop" if len(tokens) == len(prompt.tokens) else "length"
            yield i, (Candidate(tokens, np.zeros(len(tokens), np.float32), finish),)

    def decode(self, tokens):
        return "".join(map(chr, tokens))


def encode(messages) -> tuple[int, ...]:
    return tuple(map(ord, messages[-1].content))


def asked(*texts: str) -> list[Question]:
    return [Question(f"key of {text}", (Message("user", text),)) for text in texts]


def build(engine, context=100, fingerprint="f", **settings) -> LocalModel:
    return LocalModel(LocalTeacher(model="folder", **settings), engine, encode, fingerprint, context)


def test_one_greedy_answer_a_prompt_as_groups_finish():
    engine = EchoEngine()
    answers = list(build(engine, max_new_tokens=3).ask(asked("ab", "abcd")))
    assert [(q.messages[0].content, a.text, a.status, a.finish_reason) for q, a in answers] == [
        ("abcd", "abc", "truncated", "length"),
        ("ab", "ab", "ok", "stop"),
    ]
    assert [(a.prompt_tokens, a.completion_tokens) for _, a in answers] == [(4, 3), (2, 2)]
    [(keys, k, sampling, adapter)] = engine.calls
    assert (keys, k, adapter) == (["key of ab", "key of abcd"], 1, None)
    assert (sampling.max_new_tokens, sampling.temperature) == (3, 0.0)


def test_an_answer_never_runs_past_the_context():
    engine = EchoEngine()
    answers = dict(build(engine, context=6, max_new_tokens=4).ask(asked("ab", "abcd", "abcdef")))
    results = {question.messages[0].content: answer for question, answer in answers.items()}
    assert (results["ab"].text, results["ab"].status) == ("ab", "ok")  # room for 4
    assert (results["abcd"].text, results["abcd"].status) == ("ab", "truncated")  # room for 2
    assert results["abcdef"].status == "error"
    assert results["abcdef"].detail == "6 tokens fill the teacher's context of 6"


def test_other_weights_or_settings_are_another_teacher():
    engine = EchoEngine()
    identities = {
        build(engine).identity(),
        build(engine, fingerprint="g").identity(),
        build(engine, temperature=0.5).identity(),
        build(engine, max_new_tokens=9).identity(),
    }
    assert len(identities) == 4
    assert build(engine).identity() in identities
