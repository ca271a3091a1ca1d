"""A model on this machine as the teacher, through any engine: one answer a prompt."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from pudistill_cli.backend_api.contract import Backend, Engine, ModelSpec
from pudistill_cli.backend_api.registry import backends, usable
from pudistill_cli.config.teacher import LocalTeacher
from pudistill_cli.errors import BackendError
from pudistill_cli.hardware.machine import Hardware, detect
from pudistill_cli.hardware.memory_estimate import MemoryDemand, demand_of
from pudistill_cli.hardware.placement import Placement, choose_device, usable_gib
from pudistill_cli.hardware.probes import Card
from pudistill_cli.hardware.selection import choose_inference_backend
from pudistill_cli.models.checkpoint_files import read_json
from pudistill_cli.models.model_file import model_file_reader
from pudistill_cli.models.student import resolve_student
from pudistill_cli.models.tokenizer import StudentTokenizer
from pudistill_cli.teacher.answers import Answer, Question
from pudistill_cli.teacher.cleaning import clean
from pudistill_cli.types import Candidate, Message, PromptTokens, Sampling, Tokens


@dataclass(frozen=True, slots=True)
class _Placed:
    """The backend that runs a teacher, where, and whether it fits there."""

    backend: Backend
    device: str
    need_gib: float
    """Of memory: the weights, with a cache where the config tells how large one is."""
    free_gib: float | None
    """None where that is not known."""
    crowded: bool
    """It goes to the CPU, but would fit the card if nothing else were on it."""

    @property
    def fits(self) -> bool:
        return self.free_gib is None or self.need_gib <= self.free_gib


@dataclass(frozen=True, slots=True)
class _Found:
    """A teacher's weights on disk, and how to find a place for them in the memory that is free at the time."""

    path: Path
    tokenizer: StudentTokenizer
    context: int
    parameters: int
    fingerprint: str
    place: Callable[[], _Placed]


def check_local(settings: LocalTeacher) -> None:
    """See, before anything is loaded, that a GGUF teacher is there, and that a backend here reads it and has room.

    Raises:
        DataError: there is no such file.
        BackendError: the backend is missing, or the memory too small.
    """
    if _is_gguf(settings):
        path = Path(settings.model).expanduser()
        model_file_reader(path, settings.revision)
        _refuse_too_large(settings, _placed_file(path))


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
    found = _gguf(settings) if _is_gguf(settings) else _checkpoint(settings, engine, offline)
    context = min(found.context, context)
    placed = found.place()
    if placed.crowded or not placed.fits:
        make_room()
        placed = found.place()
        _refuse_too_large(settings, placed)
    spec = ModelSpec(found.path, found.tokenizer.stop_tokens, context, placed.device)
    opened = placed.backend.open(spec)
    where = "on this machine's CPU" if placed.device == "cpu" else "on this machine"
    about = f"{settings.model}, {found.parameters:,} parameters, through {placed.backend.name} {where}"
    return LocalModel(settings, opened, found.tokenizer.encode_prompt, found.fingerprint, context, about)


def _is_gguf(settings: LocalTeacher) -> bool:
    return settings.model.lower().endswith(".gguf")


def _gguf(settings: LocalTeacher) -> _Found:
    path = Path(settings.model).expanduser()
    file = model_file_reader(path, settings.revision).read_model(path.resolve())
    tokenizer = StudentTokenizer.of_model_file(file)
    find_place = partial(_placed_file, file.source)
    return _Found(file.source, tokenizer, file.context, file.parameters, file.fingerprint, find_place)


def _checkpoint(settings: LocalTeacher, engine: str, offline: bool) -> _Found:
    model = resolve_student(settings.model, settings.revision, offline=offline)
    demand = demand_of(read_json(model.folder / "config.json"), model.parameters)
    find_place = partial(_placed_checkpoint, model.folder, demand, engine)
    return _Found(model.folder, model.tokenizer, model.context, model.parameters, model.fingerprint, find_place)


# --- does it fit ----------------------------------------------------------------------------------


def _placed_file(file: Path) -> _Placed:
    hardware, backend, need = detect(), usable("llamacpp"), file.stat().st_size / 2**30
    placement = choose_device(hardware, "the teacher", need)
    crowded = _is_crowded(hardware, placement, need) and _uses_cards(backend, file)
    return _Placed(backend, placement.device, need, _room(hardware, backend, placement.card), crowded)


def _placed_checkpoint(folder: Path, demand: MemoryDemand, engine: str) -> _Placed:
    hardware = detect()
    backend, placement = choose_inference_backend(
        engine, backends(), hardware, demand, lambda asked: asked.refusal(folder)
    )
    # llama.cpp holds a checkpoint in 16 bits or fewer.
    weight_bytes = 2 if backend.name == "llamacpp" or placement.card is not None else hardware.weight_bytes
    need, there = demand.engine_gib(weight_bytes), _room(hardware, backend, placement.card)
    crowded = _is_crowded(hardware, placement, demand.engine_gib(2))
    if engine == "llamacpp":  # any other choice is torch's once there is room
        crowded = crowded and _uses_cards(backend, folder)
    return _Placed(backend, placement.device, need, there, crowded)


def _is_crowded(hardware: Hardware, placement: Placement, need_gib: float) -> bool:
    """Whether a card was passed over that has the memory, though not free."""
    card = hardware.card if placement.card is None else None
    return card is not None and need_gib <= card.memory_gib


def _uses_cards(backend: Backend, path: Path) -> bool:
    """llama.cpp is mostly built for the CPU alone, for which nothing needs to leave a card."""
    return backend.describe(ModelSpec(path, (), 1)).get("device") != "cpu"


def _room(hardware: Hardware, backend: Backend, card: Card | None) -> float | None:
    """GiB that are free for a backend, on the card or in RAM; None where that is not known."""
    if hardware.memory_gib == 0.0:
        return None
    if card is None or (card.maker == "apple" and backend.name == "llamacpp"):  # it may be built for the CPU alone
        return hardware.free_gib
    return usable_gib(hardware, card)


def _refuse_too_large(settings: LocalTeacher, placed: _Placed) -> None:
    if not placed.fits:
        raise BackendError(
            f"The teacher {settings.model} takes about {placed.need_gib:.1f} GiB; {placed.free_gib:.1f} are free.",
            "Close other programs, take a smaller teacher or one in fewer bits, or ask it on another machine: "
            "pudistill anchors RECIPE",
        )


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
        about: str = "",
    ) -> None:
        self.name = settings.model
        self.notices: list[str] = []
        self.rereadable = False
        self.about = about or settings.model
        """For a line of progress."""
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
                yield question, Answer.error(detail, len(tokens))
        for room, asked in rooms.items():
            sampling = Sampling(room, self._settings.temperature)
            for i, (candidate,) in self._engine.sample([tokens for _, tokens in asked], 1, sampling, None):
                question, prompt = asked[i]
                yield question, self._read(prompt, candidate)

    def close(self) -> None:
        """Free the model."""
        self._engine.close()

    def _read(self, prompt: PromptTokens, candidate: Candidate) -> Answer:
        return clean(
            self._engine.decode(candidate.tokens),
            candidate.finish,
            prompt_tokens=len(prompt.tokens),
            completion_tokens=len(candidate.tokens),
        )
