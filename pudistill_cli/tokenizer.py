"""The student's own tokenizer, read with `tokenizers`: prompts and answers to ids and back, and its stops."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

from tokenizers import Tokenizer

from pudistill_cli.chat_template import ChatTemplate
from pudistill_cli.contract import Tokens
from pudistill_cli.errors import DataError
from pudistill_cli.prompts import Message
from pudistill_cli.tokenizer_files import (
    chat_template_of,
    mark_special,
    named_special_tokens,
    read_tokenizer,
    stop_ids,
)

_TAIL = 16
"""So many of a prompt's last tokens are tokenised again together with its answer."""
_GUARD = "\n"
"""Text that no tokenizer merges with a word after it, and after which none puts a space of its own."""


@dataclass(frozen=True, slots=True)
class StudentTokenizer:
    """Text to token ids and back.

    As in transformers, text that spells a special token, in a user's message too, becomes that token. In an
    answer it does not: a stop token comes once, at its end.
    """

    tokenizer: Tokenizer
    chat_template: ChatTemplate
    stop_tokens: Tokens
    """Ids that end an answer; the first one is the end of turn, which training supervises."""
    notices: tuple[str, ...] = ()

    @classmethod
    def load(
        cls, folder: Path, now: datetime | None = None, format: Literal["chat", "text"] = "chat"
    ) -> StudentTokenizer:
        """Read a checkpoint's tokenizer, template and stop tokens; `now` is what a template's clock shows.

        A chat template says itself what ends a turn. What ends bare text is the checkpoint's first
        `eos_token_id`: the tokenizer's own eos may be a token that the model never saw in pretraining.

        Raises:
            DataError: no tokenizer that can be read, or none that can end an answer.
        """
        tokenizer = read_tokenizer(folder)
        special = named_special_tokens(folder, tokenizer)
        template, notices = chat_template_of(folder, special, bool(_bos(tokenizer)), now or datetime.now())
        end = end_of_turn(tokenizer, template)
        eos = tokenizer.token_to_id(special["eos_token"]) if "eos_token" in special else None
        named = (*stop_ids(folder), eos)
        order = (*named, end) if format == "text" else (end, *named)
        stops = [i for i in order if i is not None and tokenizer.id_to_token(i)]
        if not stops:
            raise DataError(
                f"The tokenizer in {folder} has no end-of-turn token, so an answer could never end.",
                "Name its eos_token in tokenizer_config.json.",
            )
        mark_special(tokenizer, [token for i in stops if (token := tokenizer.id_to_token(i))])
        return cls(tokenizer, template, tuple(dict.fromkeys(stops)), notices)

    # --- prompts ---

    def render(self, messages: Sequence[Message], **template_kwargs: Any) -> str:
        """A conversation by the chat template, up to where the answer begins (DataError if it refuses)."""
        return self.chat_template.render(messages, answer_follows=True, **template_kwargs)

    def encode_prompt(self, messages: Sequence[Message], **template_kwargs: Any) -> Tokens:
        """Ids of a rendered conversation; what transformers' `apply_chat_template` gives."""
        return self._ids(self.render(messages, **template_kwargs))

    def encode_text(self, text: str) -> Tokens:
        """Ids of bare text (`prompts.format: text`), behind the BOS where this tokenizer puts one."""
        return _bos(self.tokenizer) + self._ids(text)

    # --- answers ---

    def encode_answer(self, prompt: Tokens, answer: str) -> Tokens:
        """Ids of an answer behind the ids of its prompt, ended by the end of turn.

        Tokenised together with the prompt's end where that leaves the prompt's ids as they are; otherwise
        alone. An answer that spells a special token is tokenised alone, as plain text.
        """
        tail = prompt[-_TAIL:]
        text = self._raw(tail)
        if self._continued(text) == tail:
            joint = self._continued(text + answer)
            ids = joint[len(tail) :]
            if joint[: len(tail)] == tail and not self._control(ids):
                return (*ids, self.stop_tokens[0])
        return (*self._literal(answer), self.stop_tokens[0])

    def decode(self, tokens: Sequence[int]) -> str:
        """Text of ids, special tokens left out."""
        return self.tokenizer.decode(list(tokens), skip_special_tokens=True)

    def decode_answer(self, tokens: Sequence[int], after: Sequence[int]) -> str:
        """Text of an answer's ids behind its prompt's.

        Unlike `decode`, it keeps the space that a SentencePiece-like decoder takes from the start of a text.
        """
        tail = list(after[-_TAIL:])
        before, whole = self.decode(tail), self.decode([*tail, *tokens])
        if before and whole.startswith(before):
            return whole[len(before) :]
        return self.decode(tokens)

    # --- inside ---

    def _ids(self, text: str) -> Tokens:
        return tuple(self.tokenizer.encode(text, add_special_tokens=False).ids)

    def _raw(self, tokens: Sequence[int]) -> str:
        return self.tokenizer.decode(list(tokens), skip_special_tokens=False)

    def _continued(self, text: str) -> Tokens:
        """Ids of text that goes on from something, without the space that some tokenizers put first."""
        guard, guarded = self._ids(_GUARD), self._ids(_GUARD + text)
        return guarded[len(guard) :] if guarded[: len(guard)] == guard else self._ids(text)

    def _control(self, tokens: Tokens) -> bool:
        added = self.tokenizer.get_added_tokens_decoder()
        return any(i in added and added[i].special for i in tokens)

    def _literal(self, text: str) -> Tokens:
        self.tokenizer.encode_special_tokens = True
        try:
            return self._continued(text)
        finally:
            self.tokenizer.encode_special_tokens = False


def end_of_turn(tokenizer: Tokenizer, template: ChatTemplate) -> int | None:
    """The first added token that the template puts after an assistant's words; None if it puts none."""
    words = "ANSWER"
    try:
        text = template.render([Message("user", "Q"), Message("assistant", words)], answer_follows=False)
    except DataError:  # it wants something else first; its eos will have to do
        return None
    _, found, rest = text.rpartition(words)
    added = tokenizer.get_added_tokens_decoder()
    ids = tokenizer.encode(rest, add_special_tokens=False).ids if found else []
    return next((i for i in ids if i in added and added[i].content.strip()), None)


def _bos(tokenizer: Tokenizer) -> Tokens:
    """What the tokenizer's post-processor puts before a text: its BOS, or nothing."""
    plain = tokenizer.encode("a", add_special_tokens=False).ids
    whole = tokenizer.encode("a", add_special_tokens=True).ids
    return next((tuple(whole[:i]) for i in range(len(whole)) if whole[i : i + len(plain)] == plain), ())
