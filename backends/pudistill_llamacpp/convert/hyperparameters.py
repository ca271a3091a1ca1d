"""A checkpoint's config.json as a converter reads it, and the typed entries that a GGUF file's metadata is made of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, cast

from pudistill_cli.errors import ExportError

Kind: TypeAlias = Literal["uint32", "float32", "bool", "string", "strings", "int32s", "float32s"]
"""How a value is stored; a plural is an array."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One key of a GGUF file's metadata. `{arch}` in the key stands for the architecture's name."""

    key: str
    kind: Kind
    value: Any


def uint32(key: str, value: int) -> Entry:
    """A count, a size or a token id."""
    return Entry(key, "uint32", value)


def float32(key: str, value: float) -> Entry:
    """A number; the file holds 32 bits of it."""
    return Entry(key, "float32", float(value))


def boolean(key: str, value: bool) -> Entry:
    """A switch."""
    return Entry(key, "bool", value)


def string(key: str, value: str) -> Entry:
    """A text, as UTF-8."""
    return Entry(key, "string", value)


def strings(key: str, value: Sequence[str]) -> Entry:
    """An array of texts."""
    return Entry(key, "strings", list(value))


@dataclass(frozen=True, slots=True)
class Hyperparameters:
    """config.json over the defaults of transformers' own class, which a config may leave out."""

    values: Mapping[str, Any]
    defaults: Mapping[str, Any]

    def get(self, key: str) -> Any:
        """A setting, None if it is neither given nor defaulted."""
        value = self.values.get(key)
        return self.defaults.get(key) if value is None else value

    def integer(self, key: str) -> int:
        """A setting that must be there, as a whole number (ExportError if it is not)."""
        value = self.get(key)
        if not isinstance(value, int) or isinstance(value, bool):
            raise self._missing(key)
        return value

    def number(self, key: str) -> float:
        """A setting that must be there, as a number (ExportError if it is not)."""
        value = self.get(key)
        if not isinstance(value, int | float) or isinstance(value, bool):
            raise self._missing(key)
        return float(value)

    @property
    def heads(self) -> int:
        """Query heads."""
        return self.integer("num_attention_heads")

    @property
    def kv_heads(self) -> int:
        """Key and value heads; as many as query heads where the config does not say."""
        return self.heads if self.get("num_key_value_heads") is None else self.integer("num_key_value_heads")

    @property
    def head_dim(self) -> int:
        """Width of a head; hidden_size over the heads where the config does not say."""
        given = self.get("head_dim")
        return self.integer("hidden_size") // self.heads if given is None else self.integer("head_dim")

    def nested(self, key: str) -> dict[str, Any]:
        """A setting that is an object; an empty one if it is not."""
        value = self.get(key)
        return dict(cast("Mapping[str, Any]", value)) if isinstance(value, Mapping) else {}

    @staticmethod
    def _missing(key: str) -> ExportError:
        return ExportError(f"The student's config.json has no number {key}.", "Download or copy the student again.")
