"""A model that is one file, as the backend that reads such files gives it to the core."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

from pudistill_cli.backend_api.codec import Codec
from pudistill_cli.types import Tokens


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
    """What a backend is as well that opens such files."""

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
