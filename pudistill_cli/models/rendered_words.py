"""Whether a chat template writes a conversation's words, all of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pudistill_cli.errors import DataError
from pudistill_cli.models.chat_template import RefusedConversation
from pudistill_cli.models.tokenizer import StudentTokenizer
from pudistill_cli.types import Message, Tokens

_QUOTED = 60
"""Characters of a message that are quoted."""
_SWITCHES = ("/think", "/no_think", "/nothink")
"""Words by which a prompt turns reasoning on and off: some templates take them out."""
_THOUGHT_END = "</think>"


def unwritten(tokenizer: StudentTokenizer, messages: Sequence[Message], variables: Mapping[str, Any]) -> str | None:
    """What the template does with a conversation that it does not write as it is; None where every word is there.

    Spaces may be others, as may be a reasoning switch; an earlier answer may have lost its reasoning.
    """
    try:
        text = tokenizer.render(messages, **variables)
    except RefusedConversation as error:
        return error.reason
    for number, message in enumerate(messages, 1):
        if message.content.strip() not in text and not _holds(text, message):
            quoted = message.content.strip()[:_QUOTED]
            return f"leaves out words of message {number}, the {message.role}'s {quoted!r}"
    return None


def encode_in_full(
    tokenizer: StudentTokenizer, messages: Sequence[Message], variables: Mapping[str, Any], whose: str
) -> Tokens:
    """Ids of a rendered conversation with all its words; `whose` template it is goes into the message.

    Raises:
        DataError: the template refuses the conversation, or leaves words out.
    """
    fault = unwritten(tokenizer, messages, variables)
    if fault is not None:
        raise DataError(
            f"The {whose}'s chat template {fault}",
            "Many templates take no system message, or want user and assistant in turns. Correct the template "
            "(chat_template.jinja in its folder), or the conversation.",
        )
    return tokenizer.encode_prompt(messages, **variables)


def _holds(text: str, message: Message) -> bool:
    words, written = _words(message.content), _words(text)
    answer = _words(message.content.rpartition(_THOUGHT_END)[2]) if message.role == "assistant" else words
    return words in written or answer in written


def _words(text: str) -> str:
    return " ".join(word for word in text.split() if word not in _SWITCHES)
