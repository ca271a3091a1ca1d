"""A GGUF file's own tokenizer, as llama.cpp runs it."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from functools import cached_property
from typing import Any, Literal, TypeAlias

import numpy as np

from pudistill_cli.errors import DataError
from pudistill_cli.types import Tokens
from pudistill_llamacpp.native.library import library

Kind: TypeAlias = Literal["none", "spm", "bpe", "wpm", "ugm", "rwkv", "plamo2", "test"]
_KINDS: tuple[Kind, ...] = ("none", "spm", "bpe", "wpm", "ugm", "rwkv", "plamo2", "test")
UNKNOWN, CONTROL, USER_DEFINED = 1, 8, 16
"""Bits of a token's attributes (llama.h, llama_token_attr)."""


class Vocabulary:
    """Text to ids and back. It lives as long as the model that it belongs to."""

    def __init__(self, pointer: Any) -> None:
        self._lib = library()
        self._pointer = pointer
        self.size: int = self._lib.llama_vocab_n_tokens(pointer)
        self.kind: Kind = _KINDS[self._lib.llama_vocab_type(pointer)]

    # --- text ---

    def encode(self, text: str, *, special: bool, add_special: bool = False) -> Tokens:
        """Ids of a text.

        `special` parses text that spells a special token as that token; `add_special` puts BOS and EOS where the file
        says so.

        Raises:
            DataError: the file has no tokenizer, or the text is longer than llama.cpp can count.
        """
        if self.kind == "none":
            raise DataError("The GGUF file has no tokenizer.", "Use a GGUF file of a whole language model.")
        data = text.encode("utf-8", "surrogatepass")
        tokens = self._tokenize(data, len(data) + 8, add_special, special)
        if isinstance(tokens, int):
            tokens = self._tokenize(data, -tokens, add_special, special)
        if isinstance(tokens, int):
            raise DataError(f"llama.cpp cannot tokenise a text of {len(data)} bytes.", "Shorten it.")
        return tokens

    def _tokenize(self, data: bytes, room: int, add_special: bool, special: bool) -> Tokens | int:
        ids = np.empty(room, np.int32)
        pointer = ids.ctypes.data_as(ctypes.POINTER(ctypes.c_int32))
        count = self._lib.llama_tokenize(self._pointer, data, len(data), pointer, room, add_special, special)
        return tuple(ids[:count].tolist()) if count >= 0 else count

    def decode(self, tokens: Sequence[int], *, special: bool) -> str:
        """Text of ids, control tokens spelled out if `special`; bytes that are no UTF-8 become U+FFFD."""
        ids = np.asarray(tokens, np.int32)
        pointer = ids.ctypes.data_as(ctypes.POINTER(ctypes.c_int32))
        room = 16 * len(ids) + 16
        while True:
            buffer = ctypes.create_string_buffer(room)
            count = self._lib.llama_detokenize(self._pointer, pointer, len(ids), buffer, room, False, special)
            if count >= 0:
                return buffer.raw[:count].decode("utf-8", "replace")
            room = -count

    def text(self, token: int) -> str:
        """A token as the file spells it, before any decoding."""
        return self._lib.llama_vocab_get_text(self._pointer, token).decode("utf-8", "replace")

    def score(self, token: int) -> float:
        """A SentencePiece score; 0 for others."""
        return float(self._lib.llama_vocab_get_score(self._pointer, token))

    # --- special tokens ---

    def attributes(self, token: int) -> int:
        """Bits, of which UNKNOWN, CONTROL and USER_DEFINED are named here."""
        return int(self._lib.llama_vocab_get_attr(self._pointer, token))

    @cached_property
    def ends(self) -> Tokens:
        """Every id at which llama.cpp stops generating."""
        return tuple(t for t in range(self.size) if self._lib.llama_vocab_is_eog(self._pointer, t))

    @property
    def bos(self) -> int | None:
        """Beginning of sequence."""
        return self._named(self._lib.llama_vocab_bos)

    @property
    def eos(self) -> int | None:
        """End of sequence."""
        return self._named(self._lib.llama_vocab_eos)

    @property
    def eot(self) -> int | None:
        """End of turn."""
        return self._named(self._lib.llama_vocab_eot)

    @property
    def adds_bos(self) -> bool:
        """Whether the file says that BOS comes before a text."""
        return bool(self._lib.llama_vocab_get_add_bos(self._pointer))

    def _named(self, function: Any) -> int | None:
        token = int(function(self._pointer))
        return token if token >= 0 else None
