"""A GGUF file's own tokenizer, by llama.cpp, as the student's: the core's `Codec`."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

from pudistill_cli.types import Tokens
from pudistill_llamacpp.native.model import Model
from pudistill_llamacpp.native.vocabulary import CONTROL, UNKNOWN, USER_DEFINED


class GgufCodec:
    """See `pudistill_cli.backend_api.codec.Codec`. It holds the file's vocabulary, not its weights."""

    def __init__(self, path: Path) -> None:
        self._model = Model.open(path, vocab_only=True)
        self._vocabulary = self._model.vocabulary

    @property
    def size(self) -> int:
        """The number of tokens."""
        return self._vocabulary.size

    @property
    def chat_template(self) -> str | None:
        """The file's own."""
        return self._model.chat_template

    @property
    def ends(self) -> Tokens:
        """Where llama.cpp stops generating, the end of sequence first."""
        vocabulary = self._vocabulary
        first = [i for i in (vocabulary.eos, vocabulary.eot) if i is not None]
        return tuple(dict.fromkeys([*first, *vocabulary.ends]))

    def encode(self, text: str, *, special: bool) -> Tokens:
        """Ids of a text."""
        return self._vocabulary.encode(text, special=special) if text else ()

    def decode(self, tokens: Sequence[int], *, special: bool) -> str:
        """Text of ids."""
        return self._vocabulary.decode(tokens, special=special)

    def id_of(self, token: str) -> int | None:
        """The id of a token."""
        return self._ids.get(token)

    def token_of(self, index: int) -> str | None:
        """How a token is spelled."""
        return self._vocabulary.text(index) if 0 <= index < self._vocabulary.size else None

    def is_special(self, index: int) -> bool:
        """Whether llama.cpp calls it a control token."""
        return bool(self._vocabulary.attributes(index) & (CONTROL | UNKNOWN))

    def is_added(self, index: int) -> bool:
        """Whether llama.cpp finds it in text before it merges."""
        return bool(self._vocabulary.attributes(index) & (CONTROL | UNKNOWN | USER_DEFINED))

    @property
    def bos(self) -> Tokens:
        """What the file says comes before a text."""
        vocabulary = self._vocabulary
        return (vocabulary.bos,) if vocabulary.adds_bos and vocabulary.bos is not None else ()

    @cached_property
    def _ids(self) -> dict[str, int]:
        return {self._vocabulary.text(i): i for i in reversed(range(self._vocabulary.size))}
