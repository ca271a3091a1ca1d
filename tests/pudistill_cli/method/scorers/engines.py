"""Judges made by hand: an engine over characters whose opinion of an answer is a Python function."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np

from pudistill_cli.method.scorers import Item, Judge, Text
from pudistill_cli.method.scorers.templates import Templates
from pudistill_cli.types import Continuations, Message

END = 0
VOCABULARY = 128
TEMPLATES = Templates(
    view="{prompt}|ref {anchor}|",
    verdict="{prompt}|ref {anchor}|rate {candidate}|",
    pairwise="{prompt}|ref {anchor}|first {first}|second {second}|",
)


def encode(text: str) -> tuple[int, ...]:
    return tuple(text.encode("ascii"))


def decode(tokens: Sequence[int]) -> str:
    return "".join(chr(t) for t in tokens if t != END)


class CharacterEngine:
    """One token a character; `token(prefix, answer, t)` is a log-prob, `choice(text, word)` a logit."""

    def __init__(
        self,
        token: Callable[[str, str, int], float] = lambda prefix, answer, t: -1.0,
        choice: Callable[[str, str], float] = lambda text, word: 0.0,
    ) -> None:
        self.token = token
        self.choice = choice
        self.prefixes: list[str] = []

    def decode(self, tokens: Sequence[int]) -> str:
        return decode(tokens)

    def logprobs(self, requests: Sequence[Continuations], adapter: str | None) -> Iterator:
        assert adapter == "judge"
        for index in reversed(range(len(requests))):  # any order
            prefix = decode(requests[index].prefix)
            self.prefixes.append(prefix)
            answers = [decode(c) + "\0" * c.count(END) for c in requests[index].continuations]
            yield (
                index,
                tuple(np.array([self.token(prefix, a, t) for t in range(len(a))], dtype=np.float32) for a in answers),
            )

    def choice_logits(self, requests: Sequence[Continuations], choices: Sequence[int], adapter: str | None) -> Iterator:
        assert adapter == "judge"
        for index in reversed(range(len(requests))):
            request = requests[index]
            assert all(request.continuations)
            self.prefixes.append(decode(request.prefix))
            texts = [decode(request.prefix + c) for c in request.continuations]
            logits = [[self.choice(text, chr(c)) for c in choices] for text in texts]
            yield index, np.array(logits, dtype=np.float32)

    def distributions(self, tokens: Sequence[int], last_n: int, adapter: str | None) -> np.ndarray:
        """Uniform over the lower-case letters."""
        assert adapter == "judge"
        letters = np.full((last_n, VOCABULARY), -np.inf, dtype=np.float32)
        letters[:, ord("a") : ord("z") + 1] = -np.log(26)
        return letters


def judge(engine: CharacterEngine, templates: Templates = TEMPLATES) -> Judge:
    return Judge(
        engine=engine,
        adapter="judge",
        encode=lambda messages: encode("".join(f"<{m.role}>{m.content}" for m in messages)),
        encode_answer=lambda prompt, text: (*encode(text), END),
        decode=decode,
        templates=templates,
    )


def item(prompt: str, anchor: str, *candidates: str) -> Item:
    messages = (Message("system", "be brief"), Message("user", prompt))
    texts = [Text((*encode(text), END), text) for text in (anchor, *candidates)]
    return Item(prompt, messages, encode(f"<system>be brief<user>{prompt}"), texts[0], tuple(texts[1:]))


def anchor_in(prefix: str) -> str:
    """The reference that a prefix holds, or nothing."""
    return prefix.split("|ref ")[1].split("|")[0] if "|ref " in prefix else ""
