"""A model that is one file (GGUF), as the backend that reads such files gives it to the core."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

from pudistill_cli.backend_api.codec import Codec
from pudistill_cli.backend_api.registry import backends
from pudistill_cli.errors import BackendError, DataError
from pudistill_cli.files.file_kinds import GGUF, SAFETENSORS, advice_for, kind_of_file
from pudistill_cli.types import Tokens

_ANOTHER = "Name a GGUF file, or the folder of a checkpoint in Hugging Face form."
_ADVICE = {SAFETENSORS: "Name the folder that it is in, with config.json and tokenizer.json beside it."}


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelFile:
    """What a teacher needs: the file for its engine, and how to talk to it."""

    source: Path
    """The file itself, which its own engine opens."""
    codec: Codec
    special: Mapping[str, str]
    """What a chat template may write: `bos_token`, `eos_token`, `unk_token` and `pad_token`."""
    chat_template: str | None
    stop_tokens: Tokens
    """Ids at which its own engine stops, the end of sequence first."""
    context: int
    """The longest sequence, in tokens."""
    parameters: int
    fingerprint: str
    """Blake2b-128 of the file, in hex."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StudentFiles(ModelFile):
    """What a student needs beyond that: the weights in Hugging Face form, for the learner."""

    folder: Path
    """config.json, generation_config.json and model.safetensors; no tokenizer."""
    notices: tuple[str, ...] = ()


@runtime_checkable
class ReadsModelFiles(Protocol):
    """What a backend that opens such files implements beside the contract."""

    def read_model(self, path: Path) -> ModelFile:
        """Check a file whose weights are only run.

        Raises:
            DataError: it is no whole file, or not of a language model.
        """
        ...

    def read_student(self, path: Path) -> StudentFiles:
        """Check a file whose weights are trained, and make its folder unless the cache has it.

        Raises:
            DataError: as `read_model`, its kind cannot be trained, or there is no room for the folder.
        """
        ...


def is_model_file(model: str) -> bool:
    """Whether a setting names a GGUF file: by the file's name, or by its first bytes where it is called otherwise."""
    path = Path(model).expanduser()
    return not path.is_dir() and (model.lower().endswith(".gguf") or kind_of_file(path) == GGUF)


def model_file_reader(path: Path, revision: str | None) -> ReadsModelFiles:
    """The backend that reads a GGUF file.

    Raises:
        DataError: there is no such file, it should have a revision, or is another kind of file.
        BackendError: the backend is missing, or cannot run here.
    """
    if revision is not None:
        raise DataError(f"A revision is given, but {path} is a local file.", "Leave revision out.")
    if not path.is_file():
        raise DataError(f"There is no file {path}.", "Name a GGUF file that is there.")
    kind = kind_of_file(path)
    if kind not in (None, GGUF):
        raise DataError(f"{path} is {kind}, and no GGUF file.", advice_for(kind, _ADVICE.get(kind, _ANOTHER)))
    backend = backends().get("llamacpp")
    problem = "it is not part of this installation" if backend is None else backend.problem()
    if problem is not None or not isinstance(backend, ReadsModelFiles):
        raise BackendError(
            f"{path} is a GGUF file, which needs the llamacpp backend: {problem or 'it is too old'}.",
            'Install it with: pip install "pudistill[llamacpp]"',
        )
    return backend
