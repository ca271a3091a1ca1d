"""The student's own tokenizer: prompts and answers to ids and back, and what ends an answer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from pudistill_cli.backend_api.codec import Codec, LibraryCodec
from pudistill_cli.errors import DataError
from pudistill_cli.models.answer_turn import Ending, amended, ending_of
from pudistill_cli.models.chat_template import ChatTemplate
from pudistill_cli.models.content_parts import taking_text
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
    opening: str = ""
    """Spaces that the chat template puts before an answer, behind the generation prompt."""
    closing: str = ""
    """Text that it puts between an answer and the end of turn."""

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
        template = taking_text(template)
        eos = codec.id_of(special["eos_token"]) if "eos_token" in special else None
        named = [i for i in (*stop_ids(folder), eos) if i is not None]
        ending = ending_of(codec, template)
        stops = stops_in_order(codec, ending, named, format)
        if not stops:
            raise DataError(
                f"The tokenizer in {folder} has no end-of-turn token, so an answer could never end.",
                "Name its eos_token in tokenizer_config.json.",
            )
        mark_special(tokenizer, [token for i in stops if (token := codec.token_of(i))])
        codec.refresh()
        chat = format == "chat"
        return cls(codec, template, stops, notices if chat else (), beyond, closing=ending.closing if chat else "")

    @classmethod
    def of_model_file(cls, file: ModelFile, format: Format = "chat") -> StudentTokenizer:
        """The tokenizer of a model that a backend read.

        Raises:
            DataError: none of its tokens can end an answer.
        """
        codec = file.codec
        template, notices = template_or_plain(file.chat_template, file.special, bool(codec.bos), datetime.now())
        template = taking_text(template)
        ending = ending_of(codec, template)
        stops = stops_in_order(codec, ending, file.stop_tokens, format)
        if not stops:
            raise DataError(
                f"{file.source} names no end-of-turn token, so an answer could never end.",
                "Use a GGUF file of a whole language model.",
            )
        chat = format == "chat"
        return cls(codec, template, stops, notices if chat else (), closing=ending.closing if chat else "")

    def answering(self, variables: Mapping[str, Any]) -> StudentTokenizer:
        """The same tokenizer, for a student that answers right behind the generation prompt, without reasoning.

        `variables` are the settings that its chat template is given; what the template lacks is added to it.
        """
        template, opening = amended(self.chat_template, variables)
        return replace(self, chat_template=template, opening=opening)

    def template_notices(self, variables: Mapping[str, Any]) -> tuple[str, ...]:
        """What the user should know of the chat template: what is more than the checkpoint's own, and a bad seam."""
        template, alike = self.chat_template, "in training, sampling and the exports' template alike."
        added = f"The student's chat template lacks {template.addition!r} before an answer: it is added, {alike}"
        wrapped = f"The student's chat template wants a message as a list of parts: text is wrapped for it, {alike}"
        joined = (
            "The student's chat template ends its prompts in a space that its tokenizer joins to a word: answers begin "
            "with tokens that the model saw little of. Take the space out of the template, and put it before an answer."
        )
        shown = (template.addition, template.wraps_text, self._joins_its_end(variables))
        return tuple(notice for notice, told in zip((added, wrapped, joined), shown, strict=True) if told)

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
        answer = self.opening + answer + self.closing
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
        text = whole[len(before) :] if before and whole.startswith(before) else self.decode(tokens)
        return text.removeprefix(self.opening).removesuffix(self.closing)

    # --- inside ---

    def _joins_its_end(self, variables: Mapping[str, Any]) -> bool:
        """Whether a prompt ends in a space that becomes one token with a word behind it."""
        try:
            prompt = self.render([Message("user", "Hello.")], **variables)
        except DataError:
            return False
        ids = self._encode(prompt)
        return prompt.endswith(" ") and self._encode(prompt + "The")[: len(ids)] != ids

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


def stops_in_order(codec: Codec, ending: Ending, named: Sequence[int], format: Format) -> Tokens:
    """Ids that end an answer, the one to train on first; `named` are those that the student's files name.

    A chat template says itself what ends a turn. What ends bare text is the first of `named`, the checkpoint's own:
    the tokenizer's eos may be a token that the model never saw in pretraining.
    """
    order = (*named, ending.token) if format == "text" else (ending.token, *named)
    return tuple(dict.fromkeys(i for i in order if i is not None and codec.token_of(i)))
