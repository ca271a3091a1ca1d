"""Damaged model files by number: the same seed and number are the same file, which is read as the product reads it.

Each input either returns, or raises a PudistillError: one sentence about what is wrong, and what to type next. Anything
else that it raises is a traceback that a user would see. A library may end its process, or never come back, so that
many of them belong in a process of their own: `benchmarks.attacks.fuzz`.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from typing import Any

from benchmarks.fuzzing import (
    gguf_damage,
    gguf_parts,
    odd_files,
    safetensors_parts,
    seeds,
    sound_files,
    tokenizer_bombs,
)
from benchmarks.fuzzing.mutations import damaged_bytes, mutated_json
from pudistill_cli.backend_api.contract import Backend, ModelSpec
from pudistill_cli.backend_api.registry import backends
from pudistill_cli.errors import PudistillError
from pudistill_cli.models.model_file import is_model_file, model_file_reader
from pudistill_cli.models.peft_adapter import read_adapter
from pudistill_cli.models.safetensors_io import stored_tensors
from pudistill_cli.models.student import resolve_student
from pudistill_cli.types import Message

_EVERY = 15
"""Of inputs that the core takes, one in so many is given to every backend as well, which takes longer."""
_TEXT = (
    Message("user", "What is the weather on the hill?"),
    Message("assistant", "Rain, they say."),
    Message("user", "And now?"),
)
_LONG = "word " * 300 + "a" * 1500 + " " * 1500 + "1" * 300 + "\n" * 300 + "!" * 300
"""A text at which a pattern that goes back and tries again takes long."""

Run = Callable[[Path], None]
"""Makes the file in a scratch folder of its own and reads it."""


@dataclass(frozen=True)
class Case:
    """One damaged file."""

    name: str
    """Which file, what was done to it, and its number."""
    run: Run


class NoSentenceError(Exception):
    """An error of the product that says nothing, or not what to type next, or more than a line."""


def inputs(seed: int, count: int) -> Iterator[tuple[str, Callable[[], object]]]:
    """`count` inputs, each a name and a call; libraries are imported, and the sound files made, before the first."""
    scratch = TemporaryDirectory(prefix="pudistill-fuzzing-")
    cache = Path(scratch.name) / "cache"  # what the product keeps of a model that it can read
    before = os.environ.get("PUDISTILL_CACHE")
    os.environ["PUDISTILL_CACHE"] = str(cache)
    warm_up()

    def each() -> Iterator[tuple[str, Callable[[], object]]]:
        try:
            for number, made in enumerate(cases(seed, count)):
                yield made.name, partial(in_one_sentence, made.run, Path(scratch.name))
                if number % 100 == 99:
                    shutil.rmtree(cache, ignore_errors=True)
        finally:
            os.environ.pop("PUDISTILL_CACHE")
            if before is not None:
                os.environ["PUDISTILL_CACHE"] = before
            scratch.cleanup()

    return each()


def in_one_sentence(run: Run, scratch: Path) -> None:
    """Run a case, and see that an error of ours has one line and a hint.

    Raises:
        PudistillError: the case's own.
        NoSentenceError: its error is not such a sentence.
    """
    try:
        run(scratch)
    except PudistillError as error:
        if not error.message or not error.hint or "\n" in error.message:
            raise NoSentenceError(f"{error.message!r}, {error.hint!r}") from error
        raise


def cases(seed: int, count: int, first: int = 0) -> Iterator[Case]:
    """`count` cases from number `first` on."""
    return (case(seed, number) for number in range(first, first + count))


def case(seed: int, number: int) -> Case:
    """The case of this number, whichever process asks."""
    rng = Random(f"{seed}/{number}")
    kind = rng.choices(list(_KINDS), [weight for weight, _ in _KINDS.values()])[0]
    name, run = _KINDS[kind][1](rng)
    return Case(f"{number} {kind}: {name}", run)


def read(path: Path, *, deeply: bool = True) -> None:
    """Read a model as the product does before a run: a student's folder, a GGUF file, or an adapter's folder.

    `deeply`: every backend says why it cannot hold the student, and opens it where it can.

    Raises:
        PudistillError: it cannot be used.
    """
    if (path / "adapter_config.json").exists() and not (path / "config.json").exists():
        read_adapter(path)
        return
    if is_model_file(str(path)):
        file = path.resolve()
        model_file_reader(file, None).read_model(file)
    student = resolve_student(str(path))
    ids = student.tokenizer.encode_prompt(_TEXT)
    answer = student.tokenizer.encode_answer(ids, "Sun, then rain.")
    student.tokenizer.decode_answer(answer, ids)
    student.tokenizer.encode_text(_LONG)
    if not deeply:
        return
    for backend in backends().values():
        opened_file = student.gguf is not None and backend.name == "llamacpp"
        if backend.problem() is None and (opened_file or _can_hold(backend, student.folder, student.model_type)):
            folder = student.gguf if opened_file and student.gguf else student.folder
            spec = ModelSpec(folder, tuple(student.tokenizer.stop_tokens), min(student.context, 64), "cpu", threads=1)
            backend.open(replace(spec, dtype="float32")).close()


def _can_hold(backend: Backend, folder: Path, model_type: str) -> bool:
    known = backend.architectures()
    return (known is None or model_type in known) and backend.refusal(folder) is None


# --- the kinds ---


def _configs(rng: Random) -> tuple[str, Run]:
    file = rng.choice(
        ("config.json",) * 6 + ("generation_config.json", "tokenizer_config.json", "special_tokens_map.json")
    )
    seed = sound_files.student(rng.choice(("bpe", "spm")))
    what, data = mutated_json(json.loads((seed / file).read_bytes()), rng)
    return f"{file}: {what}", _reading(seed, {file: data}, deeply=not rng.randrange(_EVERY))


def _index(rng: Random) -> tuple[str, Run]:
    seed = sound_files.student("bpe", shards=True)
    file = "model.safetensors.index.json"
    what, data = mutated_json(json.loads((seed / file).read_bytes()), rng)
    return what, _reading(seed, {file: data}, deeply=not rng.randrange(_EVERY))


def _tokenizers(rng: Random) -> tuple[str, Run]:
    seed = sound_files.student(rng.choice(tuple(seeds.TOKENIZERS)))
    content = json.loads((seed / "tokenizer.json").read_bytes())
    what, data = tokenizer_bombs.bomb(content, rng) if not rng.randrange(4) else mutated_json(content, rng)
    return what, _reading(seed, {"tokenizer.json": data}, deeply=not rng.randrange(2 * _EVERY))


def _safetensors(rng: Random) -> tuple[str, Run]:
    seed = sound_files.student("bpe")
    what, data = safetensors_parts.mutated((seed / "model.safetensors").read_bytes(), rng)
    if rng.randrange(4):
        return what, _reading_tensors(data)
    return what, _reading(seed, {"model.safetensors": data}, deeply=not rng.randrange(2))


def _adapters(rng: Random) -> tuple[str, Run]:
    seed = sound_files.adapter()
    if rng.randrange(2):
        content = json.loads((seed / "adapter_config.json").read_bytes())
        what, data = mutated_json(content, rng)
        changed = {"adapter_config.json": data}
    else:
        what, data = safetensors_parts.mutated((seed / "adapter_model.safetensors").read_bytes(), rng)
        changed = {"adapter_model.safetensors": data}
    engines = not rng.randrange(3)

    def run(scratch: Path) -> None:
        with _replaced(seed, scratch, changed) as folder:
            for use in (read_adapter, *(e.load_adapter for e in _engines() if engines)):
                use(folder)

    return what, run


def _gguf(rng: Random) -> tuple[str, Run]:
    data = sound_files.gguf(rng.choice(("bpe", "spm")))
    what, data = damaged_bytes(data, rng) if not rng.randrange(4) else gguf_damage.mutated(gguf_parts.parsed(data), rng)
    deeply = not rng.randrange(2 * _EVERY)

    def run(scratch: Path) -> None:
        file = scratch / "model.gguf"
        file.write_bytes(data)
        try:
            read(file, deeply=deeply)
        finally:
            file.unlink()

    return what, run


def _odd(rng: Random) -> tuple[str, Run]:
    """Folders, pipes, devices and links in a file's place, and text that is none."""
    seed = sound_files.student("bpe")
    file = rng.choice(sorted(p.name for p in seed.iterdir()))
    what, make = odd_files.odd(rng)

    def run(scratch: Path) -> None:
        with _replaced(seed, scratch, {}) as folder:
            (folder / file).unlink()
            make(folder / file)
            read(folder, deeply=False)

    return f"{file}: {what}", run


_KINDS: dict[str, tuple[int, Callable[[Random], tuple[str, Run]]]] = {
    "config": (22, _configs),
    "index": (6, _index),
    "tokenizer": (14, _tokenizers),
    "safetensors": (20, _safetensors),
    "adapter": (10, _adapters),
    "gguf": (25, _gguf),
    "odd file": (3, _odd),
}


# --- what they share ---


def _reading(seed: Path, changed: dict[str, bytes], *, deeply: bool) -> Run:
    def run(scratch: Path) -> None:
        with _replaced(seed, scratch, changed) as folder:
            read(folder, deeply=deeply)

    return run


def _reading_tensors(data: bytes) -> Run:
    def run(scratch: Path) -> None:
        file = scratch / "model.safetensors"
        file.write_bytes(data)
        try:
            for tensor in stored_tensors(file):
                tensor.read()
        finally:
            file.unlink()

    return run


@contextmanager
def _replaced(seed: Path, scratch: Path, changed: dict[str, bytes]) -> Iterator[Path]:
    """A folder of the seed's files, but for what is changed."""
    folder = scratch / "model"
    folder.mkdir()
    try:
        for path in seed.iterdir():
            if path.name not in changed:
                os.link(path, folder / path.name)
        for name, data in changed.items():
            (folder / name).write_bytes(data)
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def warm_up() -> None:
    """Make the sound files and import every library, so that no case has to wait for them."""
    for tokenizer in seeds.TOKENIZERS:
        read(sound_files.student(tokenizer), deeply=tokenizer == "bpe")
    _engines()
    sound_files.gguf("bpe"), sound_files.gguf("spm")


@cache
def _engines() -> tuple[Any, ...]:
    """The sound student open in every backend that is here."""
    folder = sound_files.student("bpe")
    usable = (backend for backend in backends().values() if backend.problem() is None)
    return tuple(b.open(ModelSpec(folder, (1,), 64, "cpu", dtype="float32", threads=1)) for b in usable)
