"""The student's own tokenizer: prompts and answers to ids and back, and what ends an answer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from pudistill_cli.backend_api.codec import Codec, LibraryCodec
from pudistill_cli.errors import DataError
from pudistill_cli.models.chat_template import ChatTemplate
from pudistill_cli.models.model_file import ModelFile
from pudistill_cli.models.soundness import embedding_rows
from pudistill_cli.models.tokenizer_files import (
    chat_template_of,
    mark_special,
    named_special_tokens,
    read_tokenizer,
    stop_ids,
    template_or_plain,
    within_embeddings,
)
from pudistill_cli.prompts import Format
from pudistill_cli.types import Message, Tokens

_TAIL_TOKENS = 16
"""So many of a prompt's last tokens are tokenised again together with its answer."""
_GUARD = "\n"
"""Text that no tokenizer merges with a word after it, and after which none puts a space of its own."""


@dataclass(frozen=True, slots=True)
class StudentTokenizer:
    """Text to token ids and back.

    As in transformers, text that spells a special token, in a user's message too, becomes that token. In an
    answer it does not: a stop token comes once, at its end.
    """

    codec: Codec
    chat_template: ChatTemplate
    stop_tokens: Tokens
    """Ids that end an answer; the first one is the end of turn, which training supervises."""
    notices: tuple[str, ...] = ()
    beyond: tuple[str, ...] = ()
    """Added tokens that the embeddings have no row for: in a text they are letters like any other."""

    @classmethod
    def load(cls, folder: Path, format: Format = "chat") -> StudentTokenizer:
        """Read a checkpoint's tokenizer, template and stop tokens.

        Raises:
            DataError: no tokenizer that can be read, or none that can end an answer.
        """
        tokenizer, beyond = read_tokenizer(folder), ()
        rows = embedding_rows(folder)
        if rows is not None:
            tokenizer, beyond = within_embeddings(tokenizer, rows, folder)
        special = named_special_tokens(folder, tokenizer)
        codec = LibraryCodec(tokenizer)
        if rows is not None and max(codec.bos, default=0) >= rows:
            raise DataError(
                f"The tokenizer in {folder} begins every text with id {max(codec.bos)}, and the model's embeddings "
                f"have {rows:,} rows.",
                "Copy the tokenizer of this very model beside its weights.",
            )
        template, notices = chat_template_of(folder, special, bool(codec.bos), datetime.now())
        eos = codec.id_of(special["eos_token"]) if "eos_token" in special else None
        named = [i for i in (*stop_ids(folder), eos) if i is not None]
        stops = stops_in_order(codec, template, named, format)
        if not stops:
            raise DataError(
                f"The tokenizer in {folder} has no end-of-turn token, so an answer could never end.",
                "Name its eos_token in tokenizer_config.json.",
            )
        mark_special(tokenizer, [token for i in stops if (token := codec.token_of(i))])
        return cls(codec, template, stops, notices if format == "chat" else (), beyond)

    @classmethod
    def of_model_file(cls, file: ModelFile, format: Format = "chat") -> StudentTokenizer:
        """The tokenizer of a model that a backend read.

        Raises:
            DataError: none of its tokens can end an answer.
        """
        codec = file.codec
        template, notices = template_or_plain(file.chat_template, file.special, bool(codec.bos), datetime.now())
        stops = stops_in_order(codec, template, file.stop_tokens, format)
        if not stops:
            raise DataError(
                f"{file.source} names no end-of-turn token, so an answer could never end.",
                "Use a GGUF file of a whole language model.",
            )
        return cls(codec, template, stops, notices if format == "chat" else ())

    def at(self, now: datetime) -> StudentTokenizer:
        """The same tokenizer, with `now` on its template's clock instead of when it was loaded."""
        return replace(self, chat_template=replace(self.chat_template, now=now))

    @property
    def tokenizer(self) -> Tokenizer:
        """The library's own object.

        Raises:
            DataError: the student is a GGUF file, whose tokenizer is llama.cpp's.
        """
        if not isinstance(self.codec, LibraryCodec):
            raise DataError(
                "The student is a GGUF file; it has no tokenizer.json.",
                "Set student.original to the checkpoint that it was made from.",
            )
        return self.codec.tokenizer

    # --- prompts ---

    def render(self, messages: Sequence[Message], **template_kwargs: Any) -> str:
        """A conversation by the chat template, up to where the answer begins (DataError if it refuses)."""
        return self.chat_template.render(messages, answer_follows=True, **template_kwargs)

    def encode_prompt(self, messages: Sequence[Message], **template_kwargs: Any) -> Tokens:
        """Ids of a rendered conversation; what transformers' `apply_chat_template` gives."""
        return self._encode(self.render(messages, **template_kwargs))

    def encode_text(self, text: str) -> Tokens:
        """Ids of bare text (`prompts.format: text`), behind the BOS where this tokenizer puts one."""
        return self.codec.bos + self._encode(text)

    # --- answers ---

    def encode_answer(self, prompt: Tokens, answer: str) -> Tokens:
        """Ids of an answer behind the ids of its prompt, ended by the end of turn.

        Tokenised together with the prompt's end where that leaves the prompt's ids as they are; otherwise
        alone. An answer that spells a special token is tokenised alone, as plain text.
        """
        tail = prompt[-_TAIL_TOKENS:]
        text = self._decode_with_special(tail)
        if self._encode_continuation(text) == tail:
            joint = self._encode_continuation(text + answer)
            ids = joint[len(tail) :]
            if joint[: len(tail)] == tail and not self._has_special(ids):
                return (*ids, self.stop_tokens[0])
        return (*self._encode_continuation(answer, special=False), self.stop_tokens[0])

    def decode(self, tokens: Sequence[int]) -> str:
        """Text of ids, special tokens left out."""
        return self.codec.decode(tokens, special=False)

    def decode_answer(self, tokens: Sequence[int], after: Sequence[int]) -> str:
        """Text of an answer's ids behind its prompt's.

        Unlike `decode`, it keeps the space that a SentencePiece-like decoder takes from the start of a text.
        """
        tail = list(after[-_TAIL_TOKENS:])
        before, whole = self.decode(tail), self.decode([*tail, *tokens])
        if before and whole.startswith(before):
            return whole[len(before) :]
        return self.decode(tokens)

    # --- inside ---

    def _encode(self, text: str) -> Tokens:
        return self.codec.encode(text, special=True)

    def _decode_with_special(self, tokens: Sequence[int]) -> str:
        return self.codec.decode(tokens, special=True)

    def _encode_continuation(self, text: str, *, special: bool = True) -> Tokens:
        """Ids of text that goes on from something, without the space that some tokenizers put first."""
        guard = self.codec.encode(_GUARD, special=special)
        guarded = self.codec.encode(_GUARD + text, special=special)
        whole = guarded[: len(guard)] == guard
        return guarded[len(guard) :] if whole else self.codec.encode(text, special=special)

    def _has_special(self, tokens: Tokens) -> bool:
        return any(map(self.codec.is_special, tokens))


def stops_in_order(codec: Codec, template: ChatTemplate, named: Sequence[int], format: Format) -> Tokens:
    """Ids that end an answer, the one to train on first; `named` are those that the student's files name.

    A chat template says itself what ends a turn. What ends bare text is the first of `named`, the checkpoint's own:
    the tokenizer's eos may be a token that the model never saw in pretraining.
    """
    end = end_of_turn(codec, template)
    order = (*named, end) if format == "text" else (end, *named)
    return tuple(dict.fromkeys(i for i in order if i is not None and codec.token_of(i)))


def end_of_turn(codec: Codec, template: ChatTemplate) -> int | None:
    """The first added token that the template puts after an assistant's words; None if it puts none."""
    words = "ANSWER"
    try:
        text = template.render([Message("user", "Q"), Message("assistant", words)], answer_follows=False)
    except DataError:  # it wants something else first; its eos will have to do
        return None
    _, rendered_words, rest = text.rpartition(words)
    ids = codec.encode(rest, special=True) if rendered_words else ()
    return next((i for i in ids if codec.is_added(i) and (codec.token_of(i) or "").strip()), None)
