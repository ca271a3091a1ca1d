"""A model on this machine as the teacher, through any engine: one answer a prompt."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

from pudistill_cli.contract import Candidate, Engine, PromptTokens, Sampling, Tokens
from pudistill_cli.teacher import Answer, Question
from pudistill_cli.teacher.cleaning import clean

if TYPE_CHECKING:
    from pudistill_cli.prompts import Message
    from pudistill_cli.teacher.settings import LocalTeacher


class LocalModel:
    """Asks an open engine that holds the teacher's weights.

    `encode` renders messages with the teacher's own chat template; `fingerprint` is the content hash of its
    checkpoint, so that other weights under the same path are another teacher; `context` is in tokens.
    """

    def __init__(
        self,
        settings: LocalTeacher,
        engine: Engine,
        encode: Callable[[Sequence[Message]], Tokens],
        fingerprint: str,
        context: int,
    ) -> None:
        self.name = settings.model
        self.notices: list[str] = []
        self._settings = settings
        self._engine = engine
        self._encode = encode
        self._fingerprint = fingerprint
        self._context = context

    def identity(self) -> str:
        """Settings and fingerprint; the backend is left out, since it is the same model in any."""
        return json.dumps(self._settings.model_dump() | {"fingerprint": self._fingerprint}, sort_keys=True)

    def ask(self, questions: Sequence[Question]) -> Iterator[tuple[Question, Answer]]:
        """Yield answers as the engine finishes them; a prompt that fills the context gets status "error"."""
        rooms: dict[int, list[tuple[Question, PromptTokens]]] = {}
        for question in questions:
            tokens = self._encode(question.messages)
            room = min(self._settings.max_new_tokens, self._context - len(tokens))
            if room > 0:
                rooms.setdefault(room, []).append((question, PromptTokens(question.key, tokens)))
            else:
                detail = f"{len(tokens):,} tokens fill the teacher's context of {self._context:,}"
                yield question, Answer("", "error", "", False, len(tokens), 0, detail)
        for room, asked in rooms.items():
            sampling = Sampling(room, self._settings.temperature)
            for i, (candidate,) in self._engine.sample([tokens for _, tokens in asked], 1, sampling, None):
                question, prompt = asked[i]
                yield question, self._read(prompt, candidate)

    def _read(self, prompt: PromptTokens, candidate: Candidate) -> Answer:
        return clean(
            self._engine.decode(candidate.tokens),
            candidate.finish,
            prompt_tokens=len(prompt.tokens),
            completion_tokens=len(candidate.tokens),
        )
