"""A local model as the teacher, through an engine that a test can predict."""

from __future__ import annotations

import shutil
from types import SimpleNamespace

import numpy as np
import pytest

from pudistill_cli.backend_api.contract import Capabilities
from pudistill_cli.config.teacher import LocalTeacher
from pudistill_cli.errors import BackendError, DataError
from pudistill_cli.hardware.machine import Hardware
from pudistill_cli.hardware.probes import Card
from pudistill_cli.teacher import local, local_placement
from pudistill_cli.teacher.answers import Question
from pudistill_cli.teacher.local import LocalModel, open_local
from pudistill_cli.types import Candidate, Message
from tests.tiny import STUDENT


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


SPECIAL = {1: "[THINK]", 2: "[/THINK]", 3: "</s>", 4: "<|pad|>"}


class ReasoningEngine(EchoEngine):
    """Its decoding leaves special tokens out, those around its reasoning among them."""

    def decode(self, tokens):
        return "".join(chr(t) for t in tokens if t not in SPECIAL)


def spelled(tokens) -> str:
    return "".join(SPECIAL.get(t) or chr(t) for t in tokens)


@pytest.mark.parametrize(
    ("tokens", "text", "stripped"),
    [
        ((1, *b"hm", 2, *b"four", 3), "four", True),
        ((*b"hm.", 2, *b"Four", 3), "Four", True),  # the prompt has opened it
        ((*b"four", 3), "four", False),
        ((*b"fo", 4, *b"ur", 3), "four", False),
        ((1, *b"hm", 3), "", True),
    ],
)
def test_special_tokens_show_where_reasoning_ends(tokens, text, stripped):
    """Without them "hmfour" would be the answer."""
    teacher = LocalModel(LocalTeacher(model="folder"), ReasoningEngine(), lambda _: tokens, "f", 100, spell=spelled)
    [(_, answer)] = teacher.ask(asked("q"))
    assert (answer.text, answer.reasoning_stripped) == (text, stripped)


def test_the_end_of_turn_is_not_spelled():
    codec = SimpleNamespace(decode=lambda tokens, special: f"{tokens} {special}")
    tokenizer = SimpleNamespace(stop_tokens=(9, 3), codec=codec)
    assert local._spelled(tokenizer, (5, 6, 3)) == "(5, 6) True"
    assert local._spelled(tokenizer, (5, 6)) == "(5, 6) True"
    assert local._spelled(tokenizer, ()) == "() True"


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
    assert build(engine, min_score=1.0).identity() == build(engine).identity()  # nothing is asked again for it


def test_a_question_that_the_teachers_template_does_not_write_is_never_put(monkeypatch, spy, tmp_path):
    """All are looked at before the first is answered."""
    machine(monkeypatch, card=0, free=0, ram=1 << 33)
    folder = tmp_path / "teacher"
    shutil.copytree(STUDENT, folder)
    (folder / "chat_template.jinja").write_text("{% for m in messages %}<|user|>{{ m.content[:5] }}{% endfor %}")
    teacher = open_local(LocalTeacher(model=str(folder)), "auto", 256)
    with pytest.raises(
        DataError, match="The teacher's chat template leaves out words of message 1, the user's 'longer'"
    ):
        next(teacher.ask(asked("short", "longer")))
    assert spy.engine.calls == []
    turns = (Message("system", "Be brief."), Message("user", "hello"))
    teacher = open_local(LocalTeacher(model=str(STUDENT)), "auto", 256)
    with pytest.raises(DataError, match="The teacher's chat template refuses a conversation of system, user"):
        next(teacher.ask([Question("key", turns)]))


# --- card or CPU ---

CARD_BYTES = 2 * 205_200 + 4 * 8 * 4_096 * 2 * 80 + 4 * 512 * 768
"""Of the quickstart's student as a teacher: weights in 16 bits, cache, and logits."""
CPU_BYTES = CARD_BYTES + 2 * 205_200
"""In float32."""


class Spy:
    """A torch that is told where to go, and goes nowhere."""

    name = "torch"
    capabilities = Capabilities(sample=True, score=True, learn=True)

    def __init__(self) -> None:
        self.devices = []

    def problem(self) -> None:
        return None

    def architectures(self) -> None:
        return None

    def refusal(self, checkpoint) -> None:
        return None

    def open(self, spec) -> EchoEngine:
        self.devices.append(spec.device)
        self.engine = EchoEngine()
        return self.engine


@pytest.fixture
def spy(monkeypatch) -> Spy:
    spy = Spy()
    monkeypatch.setattr(local_placement, "backends", lambda: {"torch": spy})
    return spy


def machine(monkeypatch, card: int, free: int, ram: int) -> None:
    """So many bytes on the card, of them free, and of RAM."""
    cards = (Card("nvidia", "a card", card / 2**30, free / 2**30),)
    hardware = Hardware("Linux", "x86_64", memory_gib=64.0, free_gib=ram / 2**30, cards=cards, torch="cuda")
    monkeypatch.setattr(local_placement, "detect", lambda: hardware)


def opened(engine="auto", make_room=lambda: pytest.fail("nothing is gained by it")) -> LocalModel:
    return open_local(LocalTeacher(model=str(STUDENT)), engine, 256, make_room=make_room)


@pytest.mark.parametrize("engine", ["auto", "torch"])
def test_a_teacher_that_fits_the_card_is_run_there(monkeypatch, spy, engine):
    machine(monkeypatch, card=CARD_BYTES, free=CARD_BYTES, ram=0)
    assert opened(engine).about.endswith("through torch on this machine")
    assert spy.devices == ["auto"]


@pytest.mark.parametrize("engine", ["auto", "torch"])
def test_a_teacher_that_is_too_large_for_the_card_is_run_on_the_cpu_if_it_fits_there(monkeypatch, spy, engine):
    machine(monkeypatch, card=CARD_BYTES - 1, free=CARD_BYTES - 1, ram=CPU_BYTES)
    assert opened(engine).about.endswith("through torch on this machine's CPU")
    assert spy.devices == ["cpu"]
    machine(monkeypatch, card=CARD_BYTES - 1, free=CARD_BYTES - 1, ram=CPU_BYTES - 1)
    made = []
    with pytest.raises(BackendError, match="are free"):
        opened(engine, lambda: made.append("room"))
    assert (made, spy.devices) == (["room"], ["cpu"])


@pytest.mark.parametrize(("freed", "device"), [(1, "auto"), (0, "cpu")])
def test_what_is_on_the_card_makes_room_before_the_cpu_is_taken(monkeypatch, spy, freed, device):
    made = []

    def make_room():
        made.append("room")
        machine(monkeypatch, card=2 * CARD_BYTES, free=CARD_BYTES - 1 + freed, ram=CPU_BYTES)

    machine(monkeypatch, card=2 * CARD_BYTES, free=CARD_BYTES - 1, ram=CPU_BYTES)
    opened(make_room=make_room)
    assert (made, spy.devices) == (["room"], [device])
