"""A model on this machine as the teacher, through any engine: one answer a prompt."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path

from pudistill_cli.backend_api.contract import Engine, ModelSpec
from pudistill_cli.config.teacher import LocalTeacher
from pudistill_cli.hardware.memory_estimate import demand_of
from pudistill_cli.models.checkpoint_files import read_json
from pudistill_cli.models.model_file import is_model_file, model_file_reader
from pudistill_cli.models.packaged import local_model
from pudistill_cli.models.rendered_words import encode_in_full
from pudistill_cli.models.student import resolve_student
from pudistill_cli.models.tokenizer import StudentTokenizer
from pudistill_cli.teacher.answers import Answer, Question, Questions
from pudistill_cli.teacher.cleaning import clean
from pudistill_cli.teacher.local_placement import TeacherPlacement, place_checkpoint, place_model_file
from pudistill_cli.teacher.reasoning import strip_reasoning
from pudistill_cli.types import Candidate, Message, PromptTokens, Sampling, Tokens

AT_ONCE = 1024
"""Questions that are taken together: a few times what an engine decodes at once, so that it is seldom half empty."""


@dataclass(frozen=True, slots=True)
class _Checkpoint:
    """A teacher's weights on disk, and how to place them in the memory that is free at the time."""

    path: Path
    tokenizer: StudentTokenizer
    context: int
    parameters: int
    fingerprint: str
    place: Callable[[], TeacherPlacement]


def check_local(settings: LocalTeacher) -> None:
    """See, before anything is loaded, that a GGUF teacher is there, and that a backend here reads it and has room.

    Raises:
        DataError: there is no such file, or a packaged one is not in the cache.
        BackendError: the backend is missing, or the memory too small.
    """
    model = local_model(settings.model)
    if is_model_file(model):
        path = Path(model).expanduser()
        model_file_reader(path, settings.revision)
        place_model_file(path).refuse_too_large(settings.model)


def open_local(
    settings: LocalTeacher,
    engine: str,
    context: int,
    *,
    offline: bool = False,
    make_room: Callable[[], None] = lambda: None,
) -> LocalModel:
    """Find and load a local teacher: a folder, a hub id, or a GGUF file, which llama.cpp runs whatever `engine` says.

    `engine` is the recipe's; `context` caps the model's own, in tokens. `make_room` is called before the weights are
    loaded if the memory that is free cannot hold them, or if the card could but for what else is on it.

    Raises:
        DataError: the model is not there, not whole, or in a format that is not read.
        BackendError: no backend here can run it, or it does not fit the memory, with room made.
    """
    model = local_model(settings.model)
    checkpoint = _model_file(model, settings) if is_model_file(model) else _hugging_face(settings, engine, offline)
    context = min(checkpoint.context, context)
    placement = checkpoint.place()
    if placement.crowded_out or not placement.fits:
        make_room()
        placement = checkpoint.place()
        placement.refuse_too_large(settings.model)
    spec = ModelSpec(checkpoint.path, checkpoint.tokenizer.stop_tokens, context, placement.device)
    opened = placement.backend.open(spec)
    where = "on this machine's CPU" if placement.device == "cpu" else "on this machine"
    about = f"{settings.model}, {checkpoint.parameters:,} parameters, through {placement.backend.name} {where}"
    tokenizer = checkpoint.tokenizer
    encode = partial(encode_in_full, tokenizer, variables={}, whose="teacher")
    spell = partial(_spelled, tokenizer)
    return LocalModel(settings, opened, encode, checkpoint.fingerprint, context, about, spell)


def identity_of(settings: LocalTeacher) -> str:
    """What the answers of a local teacher are cached by, told from its files alone: nothing is loaded.

    Raises:
        DataError: as `open_local`.
        BackendError: no backend here reads its file.
    """
    model = local_model(settings.model)
    if is_model_file(model):
        return _identity(settings, _model_file(model, settings).fingerprint)
    return _identity(settings, resolve_student(settings.model, settings.revision).fingerprint)


def _identity(settings: LocalTeacher, fingerprint: str) -> str:
    return json.dumps(settings.model_dump(exclude={"min_score"}) | {"fingerprint": fingerprint}, sort_keys=True)


def _spelled(tokenizer: StudentTokenizer, tokens: Tokens) -> str:
    """Text with the special tokens in it, but for the end of turn."""
    ended = bool(tokens) and tokens[-1] in tokenizer.stop_tokens
    return tokenizer.codec.decode(tokens[:-1] if ended else tokens, special=True)


def _model_file(model: str, settings: LocalTeacher) -> _Checkpoint:
    path = Path(model).expanduser()
    file = model_file_reader(path, settings.revision).read_model(path.resolve())
    tokenizer = StudentTokenizer.of_model_file(file)
    place = partial(place_model_file, file.source)
    return _Checkpoint(file.source, tokenizer, file.context, file.parameters, file.fingerprint, place)


def _hugging_face(settings: LocalTeacher, engine: str, offline: bool) -> _Checkpoint:
    model = resolve_student(settings.model, settings.revision, offline=offline)
    demand = demand_of(read_json(model.folder / "config.json"), model.parameters)
    place = partial(place_checkpoint, model.folder, demand, engine)
    return _Checkpoint(model.folder, model.tokenizer, model.context, model.parameters, model.fingerprint, place)


class LocalModel:
    """Asks an open engine that holds the teacher's weights.

    `encode` renders messages with the teacher's own chat template; `fingerprint` is the content hash of its
    checkpoint, so that other weights under the same path are another teacher; `context` is in tokens. `spell` gives
    the text of tokens with special ones in it, which for some models mark where reasoning ends.
    """

    def __init__(
        self,
        settings: LocalTeacher,
        engine: Engine,
        encode: Callable[[Sequence[Message]], Tokens],
        fingerprint: str,
        context: int,
        about: str = "",
        spell: Callable[[Tokens], str] | None = None,
    ) -> None:
        self.name = settings.model
        self.notices: list[str] = []
        self.max_tokens: int | None = None  # the engine knows whether a turn has ended
        self.rereadable = False
        self.about = about or settings.model
        """For a line of progress."""
        self._settings = settings
        self._engine = engine
        self._encode = encode
        self._fingerprint = fingerprint
        self._context = context
        self._spell = spell or engine.decode

    def identity(self) -> str:
        """Settings and fingerprint; not the backend, the same model in any, nor what becomes of an answer."""
        return _identity(self._settings, self._fingerprint)

    def ask(self, questions: Questions) -> Iterator[tuple[Question, Answer]]:
        """Yield answers as the engine finishes them; a prompt that fills the context gets status "error"."""
        left = iter(questions)
        while asked := list(islice(left, AT_ONCE)):
            yield from self._ask(asked)

    def _ask(self, questions: Sequence[Question]) -> Iterator[tuple[Question, Answer]]:
        by_length: dict[int, list[tuple[Question, PromptTokens]]] = {}
        for question in questions:
            tokens = self._encode(question.messages)
            max_new_tokens = min(self._settings.max_new_tokens, self._context - len(tokens))
            if max_new_tokens > 0:
                by_length.setdefault(max_new_tokens, []).append((question, PromptTokens(question.key, tokens)))
            else:
                detail = f"{len(tokens):,} tokens fill the teacher's context of {self._context:,}"
                yield question, Answer.error(detail, len(tokens))
        for max_new_tokens, asked in by_length.items():
            sampling = Sampling(max_new_tokens, self._settings.temperature)
            for i, (candidate,) in self._engine.sample([tokens for _, tokens in asked], 1, sampling, None):
                question, prompt = asked[i]
                yield question, self._read(prompt, candidate)

    def close(self) -> None:
        """Free the model."""
        self._engine.close()

    def _read(self, prompt: PromptTokens, candidate: Candidate) -> Answer:
        spelled = self._spell(candidate.tokens)
        reasons = strip_reasoning(spelled) != spelled.rstrip()
        return clean(
            spelled if reasons else self._engine.decode(candidate.tokens),
            candidate.finish,
            prompt_tokens=len(prompt.tokens),
            completion_tokens=len(candidate.tokens),
        )
