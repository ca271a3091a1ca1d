"""Text to token ids and back: what a student's tokenizer must do, and the `tokenizers` library doing it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from tokenizers import Tokenizer

from pudistill_cli.foreign_errors import as_data_error
from pudistill_cli.types import Tokens

_ADVICE = "Its tokenizer.json is damaged, or not of this model: download or copy it again."


class Codec(Protocol):
    """A tokenizer of any library. A special token is one that decoding can leave out: a turn's end, say."""

    def encode(self, text: str, *, special: bool) -> Tokens:
        """Ids of a text, none added; with `special`, text that spells a special token becomes that token."""
        ...

    def decode(self, tokens: Sequence[int], *, special: bool) -> str:
        """Text of ids; special tokens are spelled out, or left out."""
        ...

    def id_of(self, token: str) -> int | None:
        """The id of a token as the vocabulary spells it."""
        ...

    def token_of(self, index: int) -> str | None:
        """How the vocabulary spells a token; None if it has no such id."""
        ...

    def is_special(self, index: int) -> bool:
        """Whether a token is special."""
        ...

    def is_added(self, index: int) -> bool:
        """Whether a token is found in text as a whole, before any merge; special ones are."""
        ...

    @property
    def bos(self) -> Tokens:
        """What is put before a text: the beginning of sequence, or nothing."""
        ...


class LibraryCodec:
    """See `Codec`; over a `tokenizers.Tokenizer`, whose special tokens are all marked, now or before `refresh`."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer = tokenizer
        self._added: dict[int, bool] = {}
        self.refresh()

    def refresh(self) -> None:
        """Look again which tokens were added; the library makes a list of them all for each question."""
        self._added = {i: token.special for i, token in self.tokenizer.get_added_tokens_decoder().items()}

    def encode(self, text: str, *, special: bool) -> Tokens:
        """Ids of a text."""
        self.tokenizer.encode_special_tokens = not special
        try:
            with as_data_error("The student's tokenizer cannot read a text", _ADVICE):
                return tuple(self.tokenizer.encode(text, add_special_tokens=False).ids)
        finally:
            self.tokenizer.encode_special_tokens = False

    def decode(self, tokens: Sequence[int], *, special: bool) -> str:
        """Text of ids."""
        with as_data_error("The student's tokenizer cannot write its tokens", _ADVICE):
            return self.tokenizer.decode(list(tokens), skip_special_tokens=not special)

    def id_of(self, token: str) -> int | None:
        """The id of a token."""
        return self.tokenizer.token_to_id(token)

    def token_of(self, index: int) -> str | None:
        """How a token is spelled."""
        return self.tokenizer.id_to_token(index) if 0 <= index < 1 << 32 else None

    def is_special(self, index: int) -> bool:
        """Whether a token is marked special."""
        return self._added.get(index, False)

    def is_added(self, index: int) -> bool:
        """Whether a token is one of `added_tokens`."""
        return index in self._added

    @property
    def bos(self) -> Tokens:
        """What the post-processor puts before a text."""
        with as_data_error("The student's tokenizer cannot read a text", _ADVICE):
            plain = self.tokenizer.encode("a", add_special_tokens=False).ids
            whole = self.tokenizer.encode("a", add_special_tokens=True).ids
        return next((tuple(whole[:i]) for i in range(len(whole)) if whole[i : i + len(plain)] == plain), ())
