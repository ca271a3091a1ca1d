"""The list of tokens by id, and which of them are special: the part of a vocabulary that every tokenizer has."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from pudistill_llamacpp.convert.hyperparameters import Entry

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = range(1, 7)
"""llama.h, llama_token_type."""
SPACE = "\N{LOWER ONE EIGHTH BLOCK}"
"""What SentencePiece writes for a space."""


class CannotBeWrittenError(Exception):
    """Why llama.cpp has no tokenizer that gives the same ids, as the end of "... cannot be written: "."""


class Pieces(Protocol):
    """Tokens, and how text is cut into them."""

    def entries(self) -> list[Entry]:
        """The metadata."""
        ...


@dataclass(frozen=True, slots=True)
class Tokens:
    """Texts and types by id, one for each row of the embeddings."""

    texts: tuple[str, ...]
    types: tuple[int, ...]
    swallowing: frozenset[str] = frozenset()
    """Special tokens that take the spaces behind them away."""

    def entries(self) -> list[Entry]:
        """The metadata."""
        return [
            Entry("tokenizer.ggml.tokens", "strings", list(self.texts)),
            Entry("tokenizer.ggml.token_type", "int32s", list(self.types)),
        ]


def tokens_of(content: Mapping[str, Any], rows: int | None) -> Tokens:
    """The tokens of a tokenizer.json, for embeddings of `rows` rows (None: as many as tokens).

    An id beyond the embeddings is left out, a row without a token is named [PADn] and unused, as upstream does.

    Raises:
        CannotBeWrittenError: two ids have one text, which would end the process that loads the file; an added token
            is only found as a word of its own, or takes the spaces before it away.
    """
    vocab: dict[str, int] = content["model"].get("vocab", {})
    if not isinstance(vocab, dict):
        raise CannotBeWrittenError(f"it is a {content['model'].get('type')} model, whose tokens have scores")
    listed = content.get("added_tokens") or []
    if rows is None:
        ids: list[int] = [*vocab.values(), *(token["id"] for token in listed)]
        return tokens_of(content, 1 + max(ids))
    texts = [f"[PAD{i}]" for i in range(rows)]
    types = [UNUSED] * rows
    for text, i in vocab.items():
        if i < rows:
            texts[i], types[i] = text, NORMAL
    added = [token for token in listed if token["id"] < rows]
    for token in added:
        texts[token["id"]], types[token["id"]] = _added(token)
    _refuse_duplicates(texts)
    return Tokens(tuple(texts), tuple(types), frozenset(t["content"] for t in added if t.get("rstrip")))


def _added(token: Mapping[str, Any]) -> tuple[str, int]:
    """An added token's text and type: special ones are only parsed on request, others always."""
    text: str = token["content"]
    if token.get("single_word"):
        raise CannotBeWrittenError(f"{text!r} counts only as a word of its own")
    if token.get("lstrip"):
        raise CannotBeWrittenError(f"{text!r} swallows the spaces before it")
    if token["special"] or _looks_special(text):
        return text, CONTROL
    return text.replace(SPACE, " "), USER_DEFINED  # llama.cpp looks for them before it writes spaces so


def _looks_special(text: str) -> bool:
    """Tokens that some checkpoints forgot to mark (upstream's list)."""
    bracketed = (text.startswith("<|") and text.endswith("|>")) or (text.startswith("<｜") and text.endswith("｜>"))
    unused = text.startswith("<unused") and text.endswith(">")
    return bracketed or unused or text in ("<pad>", "<mask>", "<2mass>", "[@BOS@]")


def _refuse_duplicates(texts: Sequence[str]) -> None:
    seen: dict[str, int] = {}
    for i, text in enumerate(texts):
        if text in seen:
            raise CannotBeWrittenError(f"ids {seen[text]} and {i} are both {text!r}")
        seen[text] = i
