"""The student before any weight is read: a local folder in Hugging Face form, a model from the hub, or a GGUF file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from hashlib import blake2b, file_digest
from pathlib import Path
from typing import Any, cast

from pudistill_cli.backend_api.export_formats import ADAPTERS, CORE
from pudistill_cli.errors import DataError
from pudistill_cli.files.file_kinds import advice_for, kind_of_file
from pudistill_cli.foreign_errors import as_data_error
from pudistill_cli.models import hub
from pudistill_cli.models.checkpoint_files import count_parameters, hidden_size, read_json, shapes_of, weight_files
from pudistill_cli.models.config_fields import check_fields
from pudistill_cli.models.language_part import language_part, parts_of
from pudistill_cli.models.model_file import is_model_file, model_file_reader
from pudistill_cli.models.original import text_difference
from pudistill_cli.models.own_code import refuse_own_code
from pudistill_cli.models.packaged import local_model
from pudistill_cli.models.reading import COPY_AGAIN
from pudistill_cli.models.soundness import refuse_quantised, refuse_unsound
from pudistill_cli.models.tokenizer import StudentTokenizer
from pudistill_cli.prompts import Format

_CONTEXT_KEYS = ("max_position_embeddings", "n_positions", "max_sequence_length", "seq_length")
_CONTENT = (
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "vocab.json",
    "merges.txt",
    "chat_template.jinja",
)
"""The small files that say what the student is; the weights' files come on top."""
_PART_ALONE = (
    "The student's checkpoint is more than a language model ({parts}). Its language model alone, of type {kind}, is "
    "trained, sampled and exported."
)
_EXPERTS_STAY = (
    "The student is a mixture of experts: the adapter is on its attention alone, and its experts stay as they are."
)


@dataclass(frozen=True, slots=True)
class Student:
    """A checkpoint that can be trained, as far as its files tell."""

    folder: Path
    """In Hugging Face form."""
    tokenizer: StudentTokenizer
    model_type: str
    parameters: int
    """As stored: tied embeddings count once."""
    width: int
    """Entries of a hidden state."""
    context: int
    """The longest sequence, in tokens."""
    fingerprint: str
    """Blake2b-128, in hex, of config, tokenizer and weights."""
    commit: str | None = None
    """Of a hub model: what its revision stood for."""
    notices: tuple[str, ...] = ()
    gguf: Path | None = None
    """The file that it came as, which llama.cpp reads."""
    original: Path | None = None
    """Of a GGUF student: the checkpoint that it was made from, into which exports are merged."""
    original_fingerprint: str | None = None

    @property
    def description(self) -> str:
        """Its name, architecture and size, for people."""
        name = (self.gguf or self.folder).name
        return f"{name}, {self.model_type}, {self.parameters:,} parameters"

    @property
    def merged_into(self) -> Path:
        """The checkpoint, in Hugging Face form, that merged weights are made from."""
        return self.original or self.folder

    @property
    def export_formats(self) -> tuple[str, ...]:
        """What it leaves as, unless the recipe says otherwise: as it came, and as its original."""
        if self.gguf is None:
            return CORE
        return ("gguf", "gguf-adapter", *(CORE if self.original else ()))

    def export_source(self, format: str) -> Path:
        """What a backend's export starts from: a GGUF student's own file, unless weights go into its original."""
        original = None if format in ADAPTERS else self.original
        return original or self.gguf or self.folder

    @property
    def only_gguf(self) -> bool:
        """Whether it is a GGUF file, and no checkpoint is named that it was made from."""
        return self.gguf is not None and self.original is None

    def answering(self, variables: Mapping[str, Any]) -> Student:
        """The same student, with a chat template that an answer can follow (see `StudentTokenizer.answering`)."""
        tokenizer = self.tokenizer.answering(variables)
        return replace(self, tokenizer=tokenizer, notices=(*self.notices, *tokenizer.template_notices(variables)))

    def at(self, now: datetime) -> Student:
        """The same student, with `now` for the present of its chat template."""
        return replace(self, tokenizer=self.tokenizer.at(now))


def resolve_student(
    model: str,
    revision: str | None = None,
    *,
    offline: bool = False,
    context: int | None = None,
    format: Format = "chat",
) -> Student:
    """Find, or download, and check a student; `context` caps its own. Local files never touch the hub.

    Raises:
        DataError: not there, not whole, in a format that is not read, or with code of its own.
        BackendError: a GGUF file, without the backend that reads it.
    """
    model = local_model(model)
    if is_model_file(model):
        return _from_gguf(Path(model).expanduser(), revision, context, format)
    folder, commit = _locate(model, revision, offline)
    config = _checked_config(folder)
    refuse_quantised(folder, config)
    weights = weight_files(folder)
    notices: tuple[str, ...] = ()
    if parts := parts_of(config):
        folder = language_part(folder, config, weights, _fingerprint(folder, weights))
        config, weights = _checked_config(folder), weight_files(folder)
        notices = (_PART_ALONE.format(parts=", ".join(parts), kind=config["model_type"]),)
    refuse_unsound(folder, config, weights)
    if any(".experts." in name for name in shapes_of(weights)):
        notices = (*notices, _EXPERTS_STAY)
    tokenizer = StudentTokenizer.load(folder, format=format)
    length, capped = _context(config, folder, context)
    return Student(
        folder=folder,
        tokenizer=tokenizer,
        model_type=str(config["model_type"]),
        parameters=count_parameters(weights),
        width=hidden_size(config),
        context=length,
        fingerprint=_fingerprint(folder, weights),
        commit=commit,
        notices=(*tokenizer.notices, *notices, *capped),
    )


def text_alone(
    model: str, revision: str | None = None, context: int | None = None, format: Format = "chat"
) -> tuple[StudentTokenizer, int | None]:
    """A student's tokenizer and chat template, and its context, where its files tell; of a hub model no weights.

    Raises:
        DataError: it is not there, or cannot be read.
        BackendError: a GGUF file, without the backend that reads it.
    """
    model = local_model(model)
    if is_model_file(model):
        path = Path(model).expanduser()
        file = model_file_reader(path, revision).read_model(path.resolve())
        return StudentTokenizer.of_model_file(file, format), min(file.context, context or file.context)
    folder, _ = _locate(model, revision, offline=False, weights=False)
    config = read_json(folder / "config.json")
    own = next((config[key] for key in _CONTEXT_KEYS if isinstance(config.get(key), int)), context)
    return StudentTokenizer.load(folder, format=format), None if own is None else min(own, context or own)


def with_original(student: Student, original: str, *, offline: bool = False, format: Format = "chat") -> Student:
    """A GGUF student whose exports are merged into the checkpoint it was made from.

    Raises:
        DataError: the student is no GGUF file, the checkpoint is another model's, or it reads text otherwise.
    """
    if student.gguf is None:
        raise DataError("student.original is given, but the student is no GGUF file.", "Leave student.original out.")
    source = resolve_student(original, offline=offline, format=format)
    if (source.model_type, source.parameters) != (student.model_type, student.parameters):
        raise DataError(
            f"{original} ({source.model_type}, {source.parameters:,} parameters) is not what {student.gguf.name} "
            f"({student.model_type}, {student.parameters:,}) was made from.",
            "Name the checkpoint of this very student, or leave student.original out.",
        )
    if difference := text_difference(student.tokenizer, source.tokenizer, format):
        raise DataError(
            f"{student.gguf.name} and {original} read text in two ways: the original {difference}. Training sees what "
            "the file does, and an export would not.",
            "Give the original the file's tokenizer and chat template, or leave student.original out.",
        )
    return replace(student, original=source.folder, original_fingerprint=source.fingerprint)


def _from_gguf(path: Path, revision: str | None, context: int | None, format: Format) -> Student:
    file = model_file_reader(path, revision).read_student(path.resolve())
    config = read_json(file.folder / "config.json")
    tokenizer = StudentTokenizer.of_model_file(file, format)
    length, notices = _context(config, file.folder, context)
    return Student(
        folder=file.folder,
        tokenizer=tokenizer,
        model_type=str(config["model_type"]),
        parameters=file.parameters,
        width=hidden_size(config),
        context=length,
        fingerprint=file.fingerprint,
        notices=(*file.notices, *tokenizer.notices, *notices),
        gguf=file.source,
    )


def _locate(model: str, revision: str | None, offline: bool, *, weights: bool = True) -> tuple[Path, str | None]:
    path = Path(model).expanduser()
    if path.is_dir():
        if revision is not None:
            raise DataError(f"student.revision is given, but {model} is a local folder.", "Leave student.revision out.")
        return path.resolve(), None
    if path.exists():
        kind = kind_of_file(path)
        advice = advice_for(kind, "Give the folder that holds config.json and *.safetensors, or a GGUF file.")
        raise DataError(f"{model} is {kind or 'a file'}.", advice)
    if not hub.HUB_ID.fullmatch(model):
        raise DataError(f"There is no folder {model}.", "Give a local folder, or a hub id such as org/name.")
    folder = hub.download(model, revision, offline=offline, weights=weights)
    return folder, folder.name


def _checked_config(folder: Path) -> dict[str, Any]:
    """config.json, of a kind that can be trained without running the checkpoint's own code."""
    config = read_json(folder / "config.json")
    refuse_own_code(folder)
    if not config and (folder / "adapter_config.json").is_file():
        raise DataError(f"{folder} is an adapter, not a model.", "Merge it into its base model first.")
    if not isinstance(config.get("model_type"), str):
        raise DataError(
            f"{folder} has no config.json that names a model_type.",
            "Give the folder of a checkpoint in Hugging Face form.",
        )
    check_fields(folder / "config.json", config)
    return config


def _context(config: dict[str, Any], folder: Path, cap: int | None) -> tuple[int, tuple[str, ...]]:
    """The model's longest sequence under the recipe's cap, and a notice where the cap asks for more."""
    own = next((config[key] for key in _CONTEXT_KEYS if isinstance(config.get(key), int)), None)
    if own is None and cap is None:
        raise DataError(
            f"{folder / 'config.json'} does not say how long a sequence may be.",
            "Say it in the recipe: --set student.context=2048",
        )
    lengths = [n for n in (cast("int | None", own), cap) if n is not None]
    if own is not None and cap is not None and cap > own:
        return own, (f"student.context is {cap}, but the student's own longest sequence is {own}: {own} it is.",)
    return min(lengths), ()


def checkpoint_fingerprint(folder: Path) -> str:
    """Blake2b-128, in hex, of config, tokenizer and weights of a checkpoint in Hugging Face form."""
    return _fingerprint(folder, weight_files(folder))


def _fingerprint(folder: Path, weights: tuple[Path, ...]) -> str:
    """Over names and contents, in a fixed order; files that are not there are passed over."""
    whole = blake2b(digest_size=16)
    for path in (*(folder / name for name in _CONTENT), *weights):
        if path.is_file():
            with as_data_error(f"Cannot read {path}", COPY_AGAIN), path.open("rb") as file:
                digest = file_digest(file, lambda: blake2b(digest_size=16)).hexdigest()
            whole.update(f"{path.name} {digest}\n".encode())
    return whole.hexdigest()
