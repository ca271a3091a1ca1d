"""A student that is one file, as the backend that reads such files gives it to the core."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

from pudistill_cli.codec import Codec
from pudistill_cli.contract import Tokens


@dataclass(frozen=True, slots=True)
class StudentFiles:
    """Where a learner finds the weights in Hugging Face form, and the tokenizer that rules the run."""

    source: Path
    """The file itself, which its own engine opens."""
    folder: Path
    """config.json, generation_config.json and model.safetensors; no tokenizer."""
    codec: Codec
    special: Mapping[str, str]
    """What a chat template may write: `bos_token`, `eos_token`, `unk_token` and `pad_token`."""
    chat_template: str | None
    stop_tokens: Tokens
    """Ids at which its own engine stops, the end of sequence first."""
    fingerprint: str
    """Blake2b-128 of the file, in hex."""
    notices: tuple[str, ...] = ()


@runtime_checkable
class ReadsStudents(Protocol):
    """What a backend is as well that opens a student's file."""

    def read_student(self, path: Path) -> StudentFiles:
        """Check a file, and make the folder in Hugging Face form unless the cache has it.

        Raises:
            DataError: it is no whole file of a kind that can be trained, or there is no room for the folder.
        """
        ...
